"""Named leases: work that only one may do at a time, whichever server it runs in.

    with held(context, GC) as lease:
        database.write(NAME, lambda tx: lease.write(tx) or …)

A lease runs out, so that one who was killed holds nobody up; who writes under it proves in the same transaction that
he still holds it.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import delete, select, update

from dstack.domain.ports import SECOND
from dstack.server.db.engine import Transaction, declare_write
from dstack.server.db.tables import leases
from dstack.server.services.context import Context
from dstack.server.services.errors import Conflict

GC: Final = "gc"
"""For whoever takes chunks out of the catalog, or moves them."""
UPKEEP: Final = "collecting garbage or repairing the store"
"""What they do who hold it."""
LASTS: Final = 300 * SECOND
TAKE = declare_write("leases.take")
KEEP = declare_write("leases.keep")
RELEASE = declare_write("leases.release")


class LeaseLost(Conflict):
    """The work took too long without a sign of life, and another has begun it: nothing more is written here."""


class Lease:
    """One that is held; see `held`."""

    def __init__(self, context: Context, name: str, what: str) -> None:
        self._context = context
        self._name = name
        self._what = what
        self._owner = f"{_server_of(context)}:{uuid4().hex}"
        self._kept = 0.0

    def take(self) -> None:
        """Raises Conflict while another holds it."""
        self._kept = self._context.clock.monotonic()
        self._context.database.write(TAKE, self._take)

    def write(self, tx: Transaction) -> None:
        """To be called in every transaction of the work, before it writes. Raises LeaseLost."""
        row = tx.execute(select(leases.c.owner, leases.c.until).where(*self._here()).with_for_update()).first()
        if row is None or row.owner != self._owner:
            raise LeaseLost(f"{self._what} was interrupted for too long, and another has begun", hint="try again later")
        if row.until < tx.now + LASTS // 2:
            tx.execute(update(leases).where(*self._here()).values(until=tx.now + LASTS))

    def keep(self) -> None:
        """To be called now and then by work that writes nothing for long. Raises LeaseLost."""
        now = self._context.clock.monotonic()
        if now - self._kept > LASTS / SECOND / 4:
            self._kept = now
            self._context.database.write(KEEP, self.write)

    def release(self) -> None:
        self._context.database.write(
            RELEASE, lambda tx: tx.execute(delete(leases).where(*self._here(), leases.c.owner == self._owner))
        )

    def _take(self, tx: Transaction) -> None:
        until = tx.now + LASTS
        row = {"project_id": self._context.project_id, "name": self._name, "owner": self._owner, "until": until}
        if tx.insert_new(leases, row):
            return
        other = tx.execute(select(leases).where(*self._here()).with_for_update()).first()
        if other is None or (other.until > tx.now and not self._is_dead(other.owner)):
            raise Conflict(f"{self._what} is under way already", hint="wait for its end, then try again")
        tx.execute(update(leases).where(*self._here()).values(owner=self._owner, until=until))

    def _is_dead(self, owner: str) -> bool:
        """One SQLite file has one server: whoever is not of this one was killed."""
        return self._context.database.dialect == "sqlite" and owner.partition(":")[0] != _server_of(self._context)

    def _here(self) -> tuple[Any, Any]:
        return leases.c.project_id == self._context.project_id, leases.c.name == self._name


@contextmanager
def held(context: Context, name: str, what: str) -> Generator[Lease]:
    """Hold the lease `name` while in the block; `what` begins a sentence about the work. Raises Conflict."""
    lease = Lease(context, name, what)
    lease.take()
    try:
        yield lease
    finally:
        lease.release()


def _server_of(context: Context) -> str:
    return UUID(int=context.started_at).hex
