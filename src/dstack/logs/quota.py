"""How much of a log is kept: the head as it comes, the tail once the job has ended, and a marker in between.

Pure: offsets are those of the raw spool, so nothing but the shipper's own position has to be remembered.
"""

from __future__ import annotations

from dataclasses import dataclass

from dstack.domain.resources import format_memory

DEFAULT_LIMIT = 1 << 30
DEFAULT_TAIL = 8 << 20


@dataclass(frozen=True, slots=True)
class Ship:
    """Ship the raw bytes from `begin` up to `end`."""

    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Skip:
    """Leave out the raw bytes from `begin` up to `end`, ship `marker` instead, and go on at `end`.

    The masker's held-back bytes before `begin` are to be discarded, and `end` moved to a `Masker.safe_cut`.
    """

    begin: int
    end: int
    marker: bytes


class LogQuota:
    """Keeps at most `limit` raw bytes of a log, the last `tail` of them from its end."""

    def __init__(self, limit: int = DEFAULT_LIMIT, tail: int = DEFAULT_TAIL) -> None:
        self.limit = limit
        self.tail = min(tail, limit // 2)
        self.head = limit - self.tail

    def next(self, offset: int, size: int, *, ended: bool) -> Ship | Skip | None:
        """What to do at raw `offset` of a spool of `size` bytes; None when there is nothing to do (yet)."""
        if offset < self.head:
            end = min(size, self.head)
        elif ended:
            begin = size - self.tail
            if offset < begin:
                return Skip(offset, begin, self._marker(begin - offset))
            end = size
        else:
            return None
        return Ship(offset, end) if offset < end else None

    def disposable(self, size: int) -> tuple[int, int]:
        """The raw range between head and tail that will never be shipped, whatever comes; empty when begin ≥ end."""
        return self.head, size - self.tail

    def _marker(self, left_out: int) -> bytes:
        text = (
            f"[dstack: {left_out} bytes left out: a log keeps {format_memory(self.limit)}, its beginning and its end]"
        )
        return f"\n{text}\n".encode()
