"""What a machine that slept, a process that stood still, or a clock that was set does to deadlines: nothing."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import and_, case, exists, select, update

from dstack.domain.lifecycle.runner import RunnerState
from dstack.domain.ports import SECOND
from dstack.server.db.engine import Transaction, declare_write
from dstack.server.db.tables import events, jobs, packs, runners, runs
from dstack.server.services.context import Context

EXTEND = declare_write("sweep.extend")
SHIFT = declare_write("sweep.shift")
_LATELY = 7 * 86400 * SECOND
"""Packs that nobody asked about for longer need no care."""
STEP = 1.0
"""Seconds by which the wall clock must leave the monotonic one to count as set; less is slewing."""


class ClockWatch:
    """Looks at both clocks before each sweep.

    Where the wall clock jumped against the monotonic one (it was set, or the machine slept: sleep stops the monotonic
    clock), every deadline moves along, because the jobs saw no such time pass. Only where the database has this
    clock: PostgreSQL has its own, which other servers share. Where no look came for longer than a lease, runners
    could not reach this server, and every lease begins anew.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._wall = context.clock.now()
        self._monotonic = context.clock.monotonic()

    def look(self) -> None:
        """Call before deadlines are acted on."""
        wall, monotonic = self._context.clock.now(), self._context.clock.monotonic()
        passed = monotonic - self._monotonic
        jumped = (wall - self._wall) / SECOND - passed
        self._wall, self._monotonic = wall, monotonic
        if abs(jumped) > STEP and self._context.database.dialect == "sqlite":
            shift_deadlines(self._context, int(jumped * SECOND), within=int((passed + STEP) * SECOND))
        if max(passed, passed + jumped) > self._context.settings.lease:
            extend_leases(self._context)


def extend_leases(context: Context) -> None:
    """A fresh lease for every runner, and at least as long for what jobs may have to say.

    After a server's start, or a gap longer than a lease: what runners did meanwhile is told in a moment, and no
    deadline may judge before it was heard.
    """

    def write(tx: Transaction) -> None:
        until = tx.now + int(context.settings.lease * SECOND)
        online = and_(runners.c.project_id == context.project_id, runners.c.state == RunnerState.ONLINE.value)
        # Also shortened: a lease longer than that comes from before the clock was set back.
        tx.execute(update(runners).where(online, runners.c.lease_until != until).values(lease_until=until))
        tx.execute(update(runners).where(online, runners.c.heartbeat_at > tx.now).values(heartbeat_at=tx.now))
        # A lost one may have called in vain: what it holds does not end before it could call once more.
        lost = and_(runners.c.project_id == context.project_id, runners.c.state == RunnerState.LOST.value)
        tx.execute(update(runners).where(lost, runners.c.lease_until < until).values(lease_until=until))
        tx.execute(
            update(jobs)
            .where(jobs.c.project_id == context.project_id, jobs.c.deadline_at < until, jobs.c.state != "queued")
            .values(deadline_at=until)
        )

    context.database.write(EXTEND, write)


def shift_deadlines(context: Context, step: int, *, within: int = 0) -> None:
    """Move everything that lies in wait of a time by `step` microseconds.

    But for what was dated in the last `within` microseconds: the clock was set before that, and it is right already.
    """

    def write(tx: Transaction) -> None:
        project_id = context.project_id
        heard = runners.c.heartbeat_at + step
        fresh = exists(
            select(events.c.seq).where(
                events.c.project_id == project_id,
                events.c.run_id == jobs.c.run_id,
                events.c.object_id == jobs.c.id,
                events.c.at.between(tx.now - within, tx.now),
            )
        )
        tx.execute(
            update(jobs)
            .where(jobs.c.project_id == project_id, jobs.c.deadline_at.is_not(None), ~fresh)
            .values(deadline_at=jobs.c.deadline_at + step, not_before=jobs.c.not_before + step)
        )
        tx.execute(
            update(runs)
            .where(
                runs.c.project_id == project_id,
                runs.c.state == "planning",
                ~runs.c.submitted_at.between(tx.now - within, tx.now),
            )
            .values(deadline_at=runs.c.deadline_at + step)
        )
        tx.execute(
            update(runners)
            .where(
                runners.c.project_id == project_id,
                runners.c.state != RunnerState.OFFLINE.value,
                ~runners.c.heartbeat_at.between(tx.now - within, tx.now),
            )
            .values(
                lease_until=runners.c.lease_until + step,
                heartbeat_at=case((heard > tx.now, tx.now), else_=heard),
                lost_at=runners.c.lost_at + step,
            )
        )
        if step > 0:  # what lies in the future of a clock that was set back only stays for longer
            _shift_packs(tx, project_id, step)
        tx.notify("place")

    context.database.write(SHIFT, write)


def _shift_packs(tx: Transaction, project_id: UUID, step: int) -> None:
    """Who was saving while the machine slept relies on what it was told of packs before."""
    before = tx.now - step
    lately = packs.c.asked_at.between(before - _LATELY, before)
    asked = (packs.c.project_id == project_id, lately)
    tx.execute(update(packs).where(*asked).values(asked_at=packs.c.asked_at + step))
    condemned = (packs.c.project_id == project_id, packs.c.condemned_at <= before)
    tx.execute(update(packs).where(*condemned).values(condemned_at=packs.c.condemned_at + step))
