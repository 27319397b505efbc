"""Time, ids and randomness, as ports that tests replace. Times are microseconds UTC."""

from __future__ import annotations

import os
import time
from typing import Protocol
from uuid import UUID


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
    """UUIDv7 (RFC 9562 §5.7): 48 bits of milliseconds, then 74 random bits."""

    def new(self, now: int) -> UUID:
        random = int.from_bytes(os.urandom(10), "big")
        value = ((now // 1000) & (2**48 - 1)) << 80 | 0x7 << 76 | (random >> 68 & 0xFFF) << 64
        return UUID(int=value | 0b10 << 62 | random & (2**62 - 1))


def format_id(prefix: str, value: UUID) -> str:
    """The form of an id at the API: `run_0193…` (32 hex digits)."""
    return f"{prefix}_{value.hex}"
