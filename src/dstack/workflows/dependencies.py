"""`depends-on` and `deps`: what they say, and the order in which workflows run."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from dstack.sdk.scalars import text_of
from dstack.workflows.diagnostics import Report, Severity, Source
from dstack.workflows.nodes import ListNode, MapNode, Node

MAX_NAME = 100
"""Characters of the name of a workflow."""
WORKFLOW_NAME = re.compile(rf"\w[\w.-]{{0,{MAX_NAME - 1}}}")
KEYS: dict[str, Literal["run", "newest"]] = {"depends-on": "run", "deps": "newest"}
"""The keys that name dependencies, and what a bare name means in each."""

_NAME = r"\w[\w.-]{0,99}"
_REPOSITORY = rf"(?:((?:{_NAME}/){{1,8}}{_NAME})/)?"
_TAG = re.compile(rf":{_REPOSITORY}({_NAME})")
_WORKFLOW = re.compile(rf"{_REPOSITORY}({_NAME})(?::({_NAME}))?")


@dataclass(frozen=True, slots=True)
class Dependency:
    """`run`: in the same run, first. `newest`: the newest successful run of it. `tag`: what the tag points at.

    `workflow` is None for all workflows that a tag has; `at` is where it stands, unless an `argument` of the command
    line names it. `repository` is another one on the same git host, such as `user/repo`.
    """

    kind: Literal["run", "newest", "tag"]
    workflow: str | None
    tag: str | None
    at: tuple[int, int]
    repository: str | None = None
    argument: str | None = None

    def __str__(self) -> str:
        name = f"{self.workflow or ''}{':' + self.tag if self.tag else ''}"
        if self.repository is None:
            return name
        return f"{self.repository}/{name}" if self.workflow else f":{self.repository}/{self.tag}"

    def tell(self, source: Source, message: str, hint: str, report: Report, severity: Severity = "error") -> None:
        """Report `message` where the dependency is named: in `source` or on the command line."""
        if self.argument is not None:
            report.argument(self.argument, message, hint, severity)
        elif severity == "error":
            report.error(source, self.at, message, hint)
        else:
            report.warning(source, self.at, message, hint)


def read(
    source: Source,
    node: MapNode,
    data: dict[str, Any],
    unknown: Collection[int],
    report: Report,
    keys: Collection[str] = tuple(KEYS),
) -> tuple[Dependency, ...]:
    """The dependencies that `keys` name; those with an expression that has no value yet are left out."""
    found: list[Dependency] = []
    for key, bare in KEYS.items():
        if key not in keys or key not in node.entries:
            continue
        for item, place, mapped in _items(node.entries[key], data[key], unknown):
            dependency = parse(item, "newest" if mapped else bare, place.at)
            if dependency is not None:
                found.append(dependency)
            else:
                report.error(source, place.at, f"`{_short(item)}` is not a dependency", _FORMS)
    return once(found)


def given(option: str, words: Iterable[tuple[str, str]], report: Report) -> tuple[Dependency, ...]:
    """The dependencies that an option of the command line names: (value, argument as typed) of each."""
    found: list[Dependency] = []
    for value, argument in words:
        dependency = parse(value, KEYS[option], (1, 1), argument)
        if dependency is not None:
            found.append(dependency)
        else:
            report.argument(argument, f"`{_short(value)}` is not a dependency", _FORMS)
    return once(found)


def once(found: Iterable[Dependency]) -> tuple[Dependency, ...]:
    """Each dependency where it is named first."""
    distinct: dict[tuple[str, str | None, str | None, str | None], Dependency] = {}
    for item in found:
        distinct.setdefault((item.kind, item.repository, item.workflow, item.tag), item)
    return tuple(distinct.values())


_TEXTS = (str, int, float)
"""What YAML makes of a name: one may be `7` or `true`."""
_FORMS = "write `WORKFLOW`, `WORKFLOW:TAG`, `:TAG` or `user/repo/WORKFLOW`"


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:60] + "…"


def _items(node: Node, value: Any, unknown: Collection[int]) -> Iterator[tuple[str, Node, bool]]:
    """Texts in canonical form with their places, and whether a mapping holds them; wrong types are the schema's."""
    nodes = node.items if isinstance(node, ListNode) else [node]
    values = cast("list[Any]", value) if isinstance(value, list) else [value]
    for item, place in zip(values, nodes, strict=True):
        if isinstance(item, dict) and isinstance(place, MapNode):
            entry = cast("dict[str, Any]", item)
            for key, prefix in (("workflow", ""), ("tag", ":")):
                name = entry.get(key)
                if isinstance(name, _TEXTS) and id(place.entries[key]) not in unknown:
                    written = text_of(name)
                    yield written if written.startswith(prefix) else prefix + written, place.entries[key], True
            if "workflows" in entry:
                yield from _items(place.entries["workflows"], entry["workflows"], unknown)
        elif isinstance(item, _TEXTS) and id(place) not in unknown:
            yield text_of(item), place, False


def parse(
    text: str, bare: Literal["run", "newest"], at: tuple[int, int], argument: str | None = None
) -> Dependency | None:
    """What `text` names; None where it cannot name anything."""
    if WORKFLOW_NAME.fullmatch(text) is not None:
        return Dependency(bare, text, None, at, None, argument)
    if (match := _TAG.fullmatch(text)) is not None:
        return Dependency("tag", None, match[2], at, match[1], argument)
    if (match := _WORKFLOW.fullmatch(text)) is None:
        return None
    repository, workflow, tag = match.groups()
    if tag is not None:
        return Dependency("tag", workflow, tag, at, repository, argument)
    # What another repository has is never run from here.
    kind = "newest" if repository is not None else bare
    return Dependency(kind, workflow, None, at, repository, argument)


def order(
    roots: Iterable[str], needs: Callable[[str], Sequence[str]], on_cycle: Callable[[list[str]], None]
) -> list[str]:
    """What `roots` reach, each name once and after what it needs, in the order written.

    Calls `on_cycle` with `[a, b, a]` for cycles, at least one for each group of names that depend on each other.
    """
    done: dict[str, None] = {}
    in_cycle: set[str] = set()
    for root in roots:
        if root in done:
            continue
        path: dict[str, None] = {root: None}
        stack = [iter(needs(root))]
        while stack:
            for name in stack[-1]:
                if name in path:
                    _close_cycle(name, path, in_cycle, on_cycle)
                elif name not in done:
                    path[name] = None
                    stack.append(iter(needs(name)))
                    break
            else:
                stack.pop()
                done[path.popitem()[0]] = None
    return list(done)


def _close_cycle(name: str, path: dict[str, None], in_cycle: set[str], on_cycle: Callable[[list[str]], None]) -> None:
    last = next(reversed(path))
    # Dense tangles hold more cycles than anyone can read: one is told for each pair of new names.
    if name in in_cycle and last in in_cycle:
        return
    names = list(path)
    cycle = [*names[names.index(name) :], name]
    in_cycle.update(cycle)
    on_cycle(cycle)
