"""A YAML file as a tree of values that know where they stand."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, cast

from dstack.sdk.scalars import Scalar, parse_scalar
from dstack.workflows import expressions
from dstack.workflows.aliases import Use
from dstack.workflows.diagnostics import Source


class Node:
    """A value in a file: where it starts (from 1), and its plain data unless it is `dynamic` (holds expressions).

    `start` and `end` are indices of the file's text; `height` counts the levels of lists and mappings. `uses` says
    which entries an alias brought, by index or key.
    """

    __slots__ = ("column", "data", "dynamic", "end", "line", "size", "start")

    line: int
    column: int
    start: int
    end: int
    size: int
    height: int
    dynamic: bool
    data: Any
    uses: dict[str | int, Use]

    @property
    def at(self) -> tuple[int, int]:
        return self.line, self.column

    def children(self) -> Collection[Node]:
        return ()

    def entry(self, place: str | int) -> Sequence[Node]:
        """What the text has for an index or key: the value, and the key before it."""
        raise LookupError(place)


_NO_USES: dict[str | int, Use] = {}


class ScalarNode(Node):
    """A single value."""

    __slots__ = ("plain", "template", "text")

    height = 0
    uses = _NO_USES

    def __init__(self, line: int, column: int, text: str, start: int, end: int, *, plain: bool) -> None:
        self.line = line
        self.column = column
        self.text = text
        self.start = start
        self.end = end
        self.plain = plain
        self.size = 1 + (len(text) >> 6)
        self.dynamic = False
        self.template: expressions.Template | None = None
        self.data: Scalar = parse_scalar(text) if plain else text


class _Collection(Node):
    __slots__ = ("height", "uses")

    def __init__(self, line: int, column: int, start: int) -> None:
        self.line = line
        self.column = column
        self.start = self.end = start
        self.size = self.height = 1
        self.dynamic = False
        self.data = None
        self.uses: dict[str | int, Use] = {}


class ListNode(_Collection):
    __slots__ = ("items",)

    def __init__(self, line: int, column: int, start: int) -> None:
        super().__init__(line, column, start)
        self.items: list[Node] = []

    def children(self) -> Collection[Node]:
        return self.items

    def entry(self, place: str | int) -> Sequence[Node]:
        return [self.items[cast(int, place)]]


class MapNode(_Collection):
    """A mapping: values and key nodes by the text of the key."""

    __slots__ = ("entries", "keys")

    def __init__(self, line: int, column: int, start: int) -> None:
        super().__init__(line, column, start)
        self.entries: dict[str, Node] = {}
        self.keys: dict[str, ScalarNode] = {}

    def children(self) -> Collection[Node]:
        return self.entries.values()

    def entry(self, place: str | int) -> Sequence[Node]:
        name = cast(str, place)
        return [self.keys[name], self.entries[name]]


def expression_position(source: Source, node: ScalarNode, ordinal: int, offset: int = -1) -> tuple[int, int]:
    """Where the `ordinal`-th `${{` of a scalar stands, or the character at `offset` of its text; the scalar's own
    place where escapes and line breaks hide it."""
    if offset >= 0:
        start = source.text.find(node.text, node.start, node.end)
        return node.at if start < 0 else source.position(start + offset)
    opening = source.opening(ordinal, node.start, node.end)
    return node.at if opening is None else source.position(opening)
