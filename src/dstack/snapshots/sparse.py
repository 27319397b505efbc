"""Holes of files: where they are, and the zeros that stand for them. Offsets and lengths in bytes."""

from __future__ import annotations

import errno
import functools
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from heapq import nlargest
from operator import itemgetter
from typing import Final

from dstack.snapshots.chunking import digest

MOST: Final = 65_536
"""Holes of one file that are kept, the longest: the list must fit into an object. What is not kept is zeros."""
LONGEST_ZEROS: Final = 8 * 1024 * 1024
"""A chunk beyond this is not taken for zeros without a look; none that this version writes is."""


class Holes:
    """The holes of one file, ascending. `flat` is offset, length, offset, length, … as `manifests.FileEntry` has it."""

    def __init__(self, flat: tuple[int, ...] = ()) -> None:
        self.flat = flat
        self._starts = flat[::2]
        self._ends = tuple(start + length for start, length in zip(flat[::2], flat[1::2], strict=True))

    @property
    def total(self) -> int:
        return sum(self.flat[1::2])

    def left(self, offset: int) -> int:
        """How far the hole at `offset` goes on; 0 where there is data."""
        index = bisect_right(self._starts, offset) - 1
        return max(0, self._ends[index] - offset) if index >= 0 else 0

    def within(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The parts of [start, end) that are holes, as (start, end)."""
        index = max(0, bisect_right(self._starts, start) - 1)
        while index < len(self._starts) and self._starts[index] < end:
            first, last = max(start, self._starts[index]), min(end, self._ends[index])
            if first < last:
                yield first, last
            index += 1


NONE: Final = Holes()


def find_holes(fd: int, found: os.stat_result) -> Holes:
    """The holes of an open file that takes less room than its size; `fd`'s position is moved."""
    if found.st_blocks * 512 >= found.st_size or not hasattr(os, "SEEK_HOLE"):
        return NONE
    try:
        return _kept(_seek_holes(fd, found.st_size))
    except OSError:
        return NONE  # a file system that does not tell: restored without holes, with the same bytes


@functools.lru_cache(maxsize=16)
def zeros_id(length: int) -> bytes | None:
    """The id of a chunk of that many zeros; None beyond LONGEST_ZEROS."""
    return digest(bytes(length)) if length <= LONGEST_ZEROS else None


def _kept(holes: Iterable[tuple[int, int]]) -> Holes:
    longest = sorted(nlargest(MOST, holes, key=itemgetter(1)))
    return Holes(tuple(number for hole in longest for number in hole))


def _seek_holes(fd: int, size: int) -> Iterator[tuple[int, int]]:
    at = 0
    while at < size:
        hole = os.lseek(fd, at, os.SEEK_HOLE)
        if hole >= size:
            return
        at = _next_data(fd, hole, size)
        yield hole, at - hole


def _next_data(fd: int, hole: int, size: int) -> int:
    try:
        return min(os.lseek(fd, hole, os.SEEK_DATA), size)
    except OSError as error:
        if error.errno == errno.ENXIO:  # nothing but the hole up to the end
            return size
        raise
