"""Objects that nothing needs, in an order in which each comes before what it names: some 50 bytes each."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

_ID: Final = 32


class Dead(NamedTuple):
    """An object and its position in the index of chunks."""

    position: int
    object_id: bytes


class DeadObjects:
    """First all of them are added, then what each names, then they are taken in order."""

    def __init__(self, chunks: int) -> None:
        """`chunks`: how many the index has."""
        self._number = array("i", [-1]) * chunks
        self._positions = array("I")
        self._ids = bytearray()
        self._named = array("I")
        """What objects name, by number, one object's after the other's."""
        self._first = array("Q")
        self._count = array("I")
        self._namers = array("I")

    def __len__(self) -> int:
        return len(self._positions)

    def __iter__(self) -> Iterator[Dead]:
        return (self._dead(number) for number in range(len(self)))

    def add(self, dead: Dead) -> None:
        self._number[dead.position] = len(self._positions)
        self._positions.append(dead.position)
        self._ids += dead.object_id
        self._first.append(0)
        self._count.append(0)
        self._namers.append(0)

    def set_names(self, position: int, named: Iterable[int]) -> None:
        """What the object at `position` names, by position; -1 and what is none of these is passed over. Once each."""
        number = self._number[position]
        self._first[number] = len(self._named)
        for other in named:
            if other >= 0 and self._number[other] >= 0:
                self._named.append(self._number[other])
                self._namers[self._number[other]] += 1
        self._count[number] = len(self._named) - self._first[number]

    def in_order(self, size: int) -> Iterator[list[Dead]]:
        """All of them, `size` at a time."""
        ready = deque(number for number, namers in enumerate(self._namers) if not namers)
        while ready:
            batch: list[Dead] = []
            while ready and len(batch) < size:
                number = ready.popleft()
                batch.append(self._dead(number))
                for at in range(self._first[number], self._first[number] + self._count[number]):
                    named = self._named[at]
                    self._namers[named] -= 1
                    if not self._namers[named]:
                        ready.append(named)
            yield batch

    def _dead(self, number: int) -> Dead:
        return Dead(self._positions[number], bytes(self._ids[number * _ID : (number + 1) * _ID]))
