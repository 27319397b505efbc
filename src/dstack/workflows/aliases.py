"""YAML aliases: which `*name` brought a value to where it is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from dstack.workflows.nodes import Node

_MOST = 500_000
"""Nodes that one tree is searched for; a position without its use is still a position."""


class Use(NamedTuple):
    """An alias in the text: `*name`, and where it stands, counted from 1."""

    name: str
    line: int
    column: int


class Brought(NamedTuple):
    """What an alias brought: the indices of the file's text from `start` to `end`. `whole` is the index of its very
    beginning, where what is wrong is what it is and not something within; -1 for an entry that `<<` merged."""

    start: int
    end: int
    use: Use
    whole: int


class Uses:
    """What aliases brought into the tree under `root`, by where it is defined."""

    def __init__(self, root: Node) -> None:
        self._root = root
        self._brought: list[Brought] | None = None

    def of(self, index: int) -> Brought | None:
        """What the tree holds by an alias at `index` of the file's text; None for the tree's own text."""
        if self._root.start <= index < self._root.end:
            return None
        if self._brought is None:
            self._brought = list(_brought(self._root))
        return next((brought for brought in self._brought if brought.start <= index < brought.end), None)


def _brought(root: Node) -> Iterator[Brought]:
    """What each alias under `root` brought."""
    waiting = [root]
    seen: set[int] = set()
    while waiting and len(seen) < _MOST:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        for place, use in node.uses.items():
            parts = node.entry(place)
            merged = len(parts) > 1 and not root.start <= parts[0].start < root.end
            for part in parts:
                yield Brought(part.start, max(part.end, part.start + 1), use, -1 if merged else part.start)
        waiting.extend(node.children())
