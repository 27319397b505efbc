"""YAML aliases: which `*name` brought a value to where it is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from dstack.workflows.nodes import Node

_MOST = 500_000
"""Nodes that one tree is searched for; a position without its use is still a position."""


class Use(NamedTuple):
    """An alias in the text: `*name` in `line`, counted from 1."""

    name: str
    line: int


class Uses:
    """What aliases brought into the tree under `root`, by where it is defined."""

    def __init__(self, root: Node) -> None:
        self._root = root
        self._brought: list[tuple[int, int, Use]] | None = None

    def of(self, index: int) -> Use | None:
        """The alias by which the tree holds what stands at `index` of the file's text; None for the tree's own text."""
        if self._root.start <= index < self._root.end:
            return None
        if self._brought is None:
            self._brought = list(_brought(self._root))
        return next((use for start, end, use in self._brought if start <= index < end), None)


def _brought(root: Node) -> Iterator[tuple[int, int, Use]]:
    """(start, end, use) of what each alias under `root` brought."""
    waiting = [root]
    seen: set[int] = set()
    while waiting and len(seen) < _MOST:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        for place, use in node.uses.items():
            for part in node.entry(place):
                yield part.start, max(part.end, part.start + 1), use
        waiting.extend(node.children())
