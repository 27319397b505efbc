"""The interface of a log store: one append-only stream of bytes per attempt, addressed by offset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from dstack.sdk.blobs import Buffer

StreamId = UUID
"""A stream is named by its attempt's id."""

TimeMark = tuple[int, int]
"""(offset, microseconds UTC): everything from that offset on was written at or after that time."""


@dataclass(frozen=True, slots=True)
class LogPage:
    """A part of a stream. `next` is where to read on; `length` is the whole stream's at the time of the call."""

    data: bytes
    next: int
    length: int
    sealed: bool


class LogStore(Protocol):
    """Append-only streams. All offsets are in bytes; a stream that was never written reads as empty."""

    async def append(self, stream: StreamId, offset: int, data: Buffer, times: Sequence[TimeMark] = ()) -> int:
        """Store `data` at `offset`; returns the offset wanted next.

        What is stored already is skipped, so repeating a call changes nothing. Where `offset` lies past the end
        nothing is stored: the answer, smaller than the caller's end, asks for the part before. A sealed stream takes
        nothing more: the answer is its length, though `offset` was not past it.
        """
        ...

    async def read(self, stream: StreamId, *, offset: int = 0, limit: int = 1 << 20) -> LogPage: ...

    async def length(self, stream: StreamId) -> int: ...

    async def offset_at(self, stream: StreamId, time: int) -> int:
        """An offset before which everything was written before `time` (to about 100 ms)."""
        ...

    async def time_of(self, stream: StreamId, offset: int) -> int | None:
        """When the byte at `offset` was written at the earliest; None when the stream has no times."""
        ...

    async def seal(self, stream: StreamId) -> None:
        """The stream is complete. Repeatable."""
        ...

    async def delete(self, stream: StreamId) -> None:
        """Remove the stream. Repeatable."""
        ...
