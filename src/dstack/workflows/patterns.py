"""`code: {exclude: […]}`, as far as it says why a file is not in the code that was sent.

What is sent is decided where the files are; here the patterns only explain.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dstack.workflows.diagnostics import Source
from dstack.workflows.nodes import ListNode, MapNode, ScalarNode


class Exclude(NamedTuple):
    """A pattern, and the file and line that it stands in."""

    pattern: str
    place: str


def read(source: Source, node: MapNode) -> Iterator[Exclude]:
    """The patterns under `code` of a workflow or of the root of a file."""
    code = node.entries.get("code")
    listed = code.entries.get("exclude") if isinstance(code, MapNode) else None
    for item in listed.items if isinstance(listed, ListNode) else [listed]:
        if isinstance(item, ScalarNode) and item.text.strip("/"):
            yield Exclude(item.text, f"{source.file}:{item.line}")


def of(excludes: Sequence[Exclude], path: str) -> Exclude | None:
    """The first pattern that seems to name `path`, or a folder that it lies in."""
    parts = path.split("/")
    places = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    for exclude in excludes:
        pattern = exclude.pattern.strip("/")
        names = places if "/" in exclude.pattern.rstrip("/") else parts
        if any(fnmatch.fnmatchcase(name, pattern) for name in names):
            return exclude
    return None
