"""Time, ids and randomness, as ports that tests replace. Times are microseconds UTC."""

from __future__ import annotations

import os
import threading
import time
from typing import Protocol
from uuid import UUID

SECOND = 1_000_000
"""Microseconds."""


class Clock(Protocol):
    """The wall clock for records and a monotonic one for durations."""

    def now(self) -> int:
        """Microseconds UTC; may step back."""
        ...

    def monotonic(self) -> float:
        """Seconds; never steps back."""
        ...


class Ids(Protocol):
    def new(self, now: int) -> UUID:
        """A fresh UUIDv7 for a row made at `now` (microseconds UTC)."""
        ...


class SystemClock:
    def now(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic()


class SystemIds:
    """UUIDv7 (RFC 9562 §5.7): 48 bits of milliseconds, then 74 random bits.

    Those of one process rise strictly (§6.2, method 2), also within a millisecond and while the clock is set back:
    what is listed by id is listed in the order in which it was made.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = -1

    def new(self, now: int) -> UUID:
        random = int.from_bytes(os.urandom(10), "big")
        made = ((now // 1000) & _MILLISECONDS) << 74 | random & _RANDOM
        with self._lock:
            if made >> 74 <= self._last >> 74:
                # Up to 2^32 further: rivals of this process cannot guess it, and the bits do not run out.
                made = self._last + 1 + (random & 0xFFFF_FFFF)
            self._last = made
        value = made >> 74 << 80 | 0x7 << 76 | (made >> 62 & 0xFFF) << 64
        return UUID(int=value | 0b10 << 62 | made & (2**62 - 1))


_MILLISECONDS = 2**48 - 1
_RANDOM = 2**74 - 1


def format_id(prefix: str, value: UUID) -> str:
    """The form of an id at the API: `run_0193…` (32 hex digits)."""
    return f"{prefix}_{value.hex}"
