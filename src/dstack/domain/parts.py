"""Work through many things some at a time: a statement takes only so many parameters, and memory only so much."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, TypeVar

T = TypeVar("T")
STATEMENT: Final = 500
"""Ids that every database takes in one statement, in a moment."""


def parts(items: Iterable[T], size: int = STATEMENT) -> Iterator[list[T]]:
    """`items`, `size` at a time and in order; no more of them are asked for than one part needs."""
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part
