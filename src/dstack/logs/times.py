"""When which part of a log was written: (offset, time) marks, at most one per 100 ms, found by bisection.

File format: records of 16 bytes, little-endian: offset (u64), microseconds UTC (i64). Offsets rise strictly, times
never fall: where a clock was set back, the later marks keep the earlier, higher time.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable

_RECORD = struct.Struct("<Qq")
INTERVAL = 100_000
"""Microseconds between marks."""


class MarkRecorder:
    """Decides on the side of the writer which (offset, time) pairs are worth sending."""

    def __init__(self, interval: int = INTERVAL) -> None:
        self._interval = interval
        self._last: int | None = None

    def mark(self, offset: int, now: int) -> tuple[tuple[int, int], ...]:
        """The mark for bytes from `offset` on that were read at `now`, or none when the last one is recent enough."""
        if self._last is not None and 0 <= now - self._last < self._interval:
            return ()
        self._last = now
        return ((offset, now),)


class TimeIndex:
    """The marks of one stream in an open file; the caller owns the descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._count = os.fstat(fd).st_size // _RECORD.size
        self._last = self._at(self._count - 1) if self._count else (-1, 0)

    def append(self, marks: Iterable[tuple[int, int]]) -> None:
        """Add marks; those at or before the last offset are known already and skipped."""
        records: list[bytes] = []
        for offset, time in marks:
            if offset > self._last[0]:
                self._last = (offset, max(time, self._last[1]))
                records.append(_RECORD.pack(*self._last))
        if records:
            os.pwrite(self._fd, b"".join(records), self._count * _RECORD.size)
            self._count += len(records)

    def offset_at(self, time: int, end: int) -> int:
        """An offset before which everything was written before `time`; `end` is the stream's length.

        A mark speaks for what was written within an interval of it, so a longer silence before `time` means that
        nothing of that mark is as late as that.
        """
        index = self._bisect(lambda mark: mark[1] < time)
        if index == 0:
            return 0
        offset, marked = self._at(index - 1)
        if time - marked <= 2 * INTERVAL:
            return offset
        return self._at(index)[0] if index < self._count else end

    def time_of(self, offset: int) -> int | None:
        """The earliest time the byte at `offset` may have been written; None when no mark tells."""
        index = self._bisect(lambda mark: mark[0] <= offset)
        return self._at(index - 1)[1] if index else None

    def _at(self, index: int) -> tuple[int, int]:
        offset, time = _RECORD.unpack(os.pread(self._fd, _RECORD.size, index * _RECORD.size))
        return offset, time

    def _bisect(self, before: Callable[[tuple[int, int]], bool]) -> int:
        """How many marks come `before`."""
        low, high = 0, self._count
        while low < high:
            middle = (low + high) // 2
            if before(self._at(middle)):
                low = middle + 1
            else:
                high = middle
        return low
