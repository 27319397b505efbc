"""The ports of `dstack.domain.ports` as tests drive them: time stands still until moved, ids come in order."""

from __future__ import annotations

from uuid import UUID

START = 1_700_000_000_000_000
"""2023-11-14T22:13:20Z, where a FakeClock begins."""


class FakeClock:
    """A clock that moves only when told; `step` moves the wall clock alone, as NTP does, also back."""

    def __init__(self, now: int = START) -> None:
        self._now = now
        self._monotonic = 1_000.0

    def now(self) -> int:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass, on both clocks."""
        if seconds < 0:
            raise ValueError("time does not run backwards; `step` sets the wall clock back")
        self._now += round(seconds * 1_000_000)
        self._monotonic += seconds

    def step(self, seconds: float) -> None:
        """Set the wall clock forward or back while no time passes."""
        self._now += round(seconds * 1_000_000)


class FakeIds:
    """UUIDv7 with a counter where the random bits are: the same sequence in each test, in order of creation."""

    def __init__(self) -> None:
        self.made = 0

    def new(self, now: int) -> UUID:
        self.made += 1
        return UUID(int=((now // 1000) & (2**48 - 1)) << 80 | 0x7 << 76 | 0b10 << 62 | self.made)


class FakeBackoff:
    """Waits for nothing, and remembers after which tries it was asked to."""

    def __init__(self) -> None:
        self.paused: list[int] = []

    def pause(self, tried: int) -> None:
        self.paused.append(tried)
