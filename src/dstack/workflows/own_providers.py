"""`.dstack/providers.yaml`, in which a repository of 2022 names providers of its own.

Their programs cannot run yet. What the file says is checked all the same, and its names are known to workflows.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

from pydantic import Field

from dstack.sdk.fields import Section, Text, Texts
from dstack.sdk.scalars import text_of
from dstack.workflows.checking import Subject, check
from dstack.workflows.dependencies import WORKFLOW_NAME
from dstack.workflows.diagnostics import Report, Source
from dstack.workflows.nodes import ListNode, MapNode, Node, ScalarNode

_START = "start each with `- name: NAME`"


class OwnProvider(Section):
    """One provider: what workflows call it, and what runs it."""

    name: Text = Field(examples=["mine"])
    image: Text | None = None
    commands: Annotated[Texts, Field(min_length=1)] = Field(examples=["[python3 providers/mine/main.py]"])


def read(source: Source, root: Node | None, built_in: Collection[str], report: Report) -> frozenset[str]:
    """The names in the file whose tree is `root`; what cannot be read is reported, and its name known if it has one."""
    if root is None or (isinstance(root, ScalarNode) and root.data is None):
        return frozenset()
    if not isinstance(root, MapNode) or "providers" not in root.entries:
        report.error(source, root.at, "`providers:` is missing", "start the file with `providers:` and a list under it")
        return frozenset()
    for key, node in root.keys.items():
        if key != "providers":
            report.error(source, node.at, f"unknown key `{key[:60]}`", "the file has one key, `providers`")
    listed = root.entries["providers"]
    if isinstance(listed, ScalarNode) and listed.data is None:
        return frozenset()
    if not isinstance(listed, ListNode):
        report.error(source, listed.at, "`providers` must be a list", _START)
        return frozenset()
    found: dict[str, int] = {}
    for item in listed.items:
        if isinstance(item, MapNode):
            _provider(source, item, found, built_in, report)
        else:
            report.error(source, item.at, "a provider must be `key: value` lines", _START)
    return frozenset(found)


def _provider(source: Source, item: MapNode, found: dict[str, int], built_in: Collection[str], report: Report) -> None:
    """Add the name of one provider to those that are `found`, with its line."""
    if item.dynamic:
        report.error(source, item.at, "a provider cannot hold an expression", "write it out")
    else:
        check(OwnProvider, Subject(source, item, item.data), report)
    place = item.entries.get("name")
    name = text_of(place.data) if isinstance(place, ScalarNode) else ""
    if place is None or not name.strip():
        return
    if WORKFLOW_NAME.fullmatch(name) is None:
        hint = "use letters, digits, `_`, `-` and `.`, at most 100"
        report.error(source, place.at, f"`{name[:60]}` cannot name a provider", hint)
    elif (first := found.setdefault(name, place.line)) != place.line:
        report.error(
            source, place.at, f"there are two providers named `{name}`", f"the first is in line {first}: rename one"
        )
    elif name in built_in:
        message = f"`{name}` is built in: workflows get that one, not the one of this file"
        report.warning(source, place.at, message, "rename it")
