"""Every chunk of a project in memory, in 25 bytes each: what is needed of it, and in which pack it lies.

A million chunks (some 600 GB of large files) take 25 MB. Ids are kept to 128 bits: two chunks that agree in these
would have to be made for it with 2^64 tries.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Final, NamedTuple

_HALVES: Final = Struct(">QQ16x")
NEEDED: Final = 1
"""Somebody refers to it."""
HELD: Final = 2
"""Who saves at this moment may rely on it."""
READ: Final = 4
"""It is an object, and what it names is marked as it is."""
GONE: Final = 8
"""It is no longer in the catalog."""


class Pack(NamedTuple):
    """A row of `packs`; its number is its place in `ChunkIndex.packs`."""

    pack_id: bytes
    size: int
    asked_at: int
    condemned_at: int | None
    created_at: int


class ChunkIndex:
    """Filled in order of ids, then asked. `flags` are the bits above, by position; `packs` by number."""

    def __init__(self, packs: Iterable[Pack]) -> None:
        self.packs: list[Pack] = list(packs)
        self.numbers = {pack.pack_id: number for number, pack in enumerate(self.packs)}
        self.flags = bytearray()
        self._high = array("Q")
        self._low = array("Q")
        self._pack = array("i")
        self._length = array("I")

    def __len__(self) -> int:
        return len(self.flags)

    def append(self, chunk_id: bytes, pack_id: bytes, stored_length: int) -> None:
        """Chunks come in order of their ids. One of a pack that is not in the list is nobody's to take away."""
        high, low = _HALVES.unpack(chunk_id)
        self._high.append(high)
        self._low.append(low)
        self._pack.append(self.numbers.get(pack_id, -1))
        self._length.append(stored_length)
        self.flags.append(0)

    def find(self, chunk_id: bytes) -> int:
        """The position of a chunk; -1 for one that came later, or never was."""
        high, low = _HALVES.unpack(chunk_id)
        position = bisect_left(self._high, high)
        while position < len(self._high) and self._high[position] == high:
            if self._low[position] == low:
                return position
            position += 1
        return -1

    def pack_of(self, position: int) -> int:
        """The number of the pack that the chunk lies in; -1 for one that is not in the list."""
        return self._pack[position]

    def length_of(self, position: int) -> int:
        """Stored bytes."""
        return self._length[position]

    def mark(self, position: int, flag: int) -> bool:
        """Set a bit; whether it was not set before."""
        before = self.flags[position]
        self.flags[position] = before | flag
        return not before & flag

    def counts(self) -> list[int]:
        """By pack, how many chunks it has, whatever became of them."""
        found = [0] * len(self.packs)
        for number in self._pack:
            if number >= 0:
                found[number] += 1
        return found

    def sums(self, flag: int) -> list[int]:
        """By pack, the stored bytes of its chunks that have any bit of `flag`."""
        found = [0] * len(self.packs)
        for position, number in enumerate(self._pack):
            if number >= 0 and self.flags[position] & flag:
                found[number] += self._length[position]
        return found

    def without(self, flag: int) -> Iterator[int]:
        """Positions of chunks that have no bit of `flag`."""
        return (position for position, found in enumerate(self.flags) if not found & flag)
