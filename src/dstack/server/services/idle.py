"""Whether anybody needs this server: requests under way, the last one's time, runs that are not over."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from uuid import UUID

from sqlalchemy import select

from dstack.domain.lifecycle.run import TERMINAL
from dstack.domain.ports import Clock
from dstack.server.db.engine import Transaction
from dstack.server.db.tables import runs


class Activity:
    """Counted on the event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._under_way = 0
        self._last = clock.monotonic()

    @contextmanager
    def request(self) -> Generator[None]:
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self.touch()

    def touch(self) -> None:
        self._last = self._clock.monotonic()

    def idle_for(self) -> float:
        """Seconds since the last request ended; 0 while one is under way."""
        return 0.0 if self._under_way else self._clock.monotonic() - self._last


def has_open_runs(tx: Transaction, project_id: UUID) -> bool:
    query = select(runs.c.id).where(
        runs.c.project_id == project_id, runs.c.state.not_in([state.value for state in TERMINAL])
    )
    return tx.execute(query.limit(1)).first() is not None
