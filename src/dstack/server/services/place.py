"""The placer: queued jobs to runners that fit, by priority, then age, in batches of one transaction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Integer, and_, bindparam, select, text

from dstack.domain.lifecycle import job as job_table
from dstack.domain.placement import Free, unmet
from dstack.domain.resources import Capacity, Requirements
from dstack.server.db.engine import Transaction, declare_write
from dstack.server.db.prepared import Prepared
from dstack.server.db.tables import attempts, jobs, runners
from dstack.server.db.types import Id
from dstack.server.services.apply import Batch
from dstack.server.services.context import Context
from dstack.server.services.facts import Facts
from dstack.server.services.holdings import held
from dstack.server.services.stored import decode_need

PLACE = declare_write("place")


@dataclass(slots=True)
class Machine:
    """A runner that is online, and what is left of it."""

    id: UUID
    capacity: Capacity
    slots: int
    free: Free
    drained: bool
    jobs: int = 0

    def room(self) -> int:
        """How many jobs of one CPU it could still be given."""
        return 0 if self.drained else max(0, self.free.cpu) + max(0, self.free.ahead)


@dataclass(frozen=True, slots=True)
class Placed:
    """What one round did: (attempt, runner) pairs, and whether the queue may hold more than found room."""

    attempts: list[tuple[UUID, UUID]]
    more: bool


def place(context: Context) -> int:
    """Place what fits now; returns how many jobs were placed."""

    def write(tx: Transaction) -> int:
        _be_alone(tx, context)
        return len(place_in(tx, context, Batch.load_jobs).attempts)

    return context.database.write(PLACE, write)


def may_place(tx: Transaction, context: Context) -> bool:
    """Whether nobody else is placing now; then nobody else may until this transaction ends.

    For transactions that hold other rows: to wait here could be to wait for one that waits for them.
    """
    return tx.dialect != "postgresql" or bool(tx.execute(_TRY_ALONE, {"key": _lock_key(context)}).scalar())


def _be_alone(tx: Transaction, context: Context) -> None:
    """Wait until nobody else is placing: two at once would both give away the room that each found.

    SQLite's writers take turns anyway.
    """
    if tx.dialect == "postgresql":
        tx.execute(_ALONE, {"key": _lock_key(context)})


def _lock_key(context: Context) -> int:
    return int.from_bytes(context.project_id.bytes[:8], "big", signed=True)


def place_in(
    tx: Transaction, context: Context, load: Callable[[Batch, list[UUID]], None] = Batch.load_free_jobs
) -> Placed:
    """`place`, as a part of the caller's transaction, which may hold runs: jobs of runs that others hold are left."""
    machines = find_machines(tx, context)
    batch = Batch(tx, context.project_id, context.settings, context.ids)
    chosen: list[tuple[UUID, UUID]] = []
    full: set[str] = set()
    more = True
    after: tuple[int, int, UUID] | None = None
    # Looking at the queue ends with the last free place, not with the last job: it may be 10,000 long.
    while room := sum(machine.room() for machine in machines):
        page = _queued(tx, context, after, 2 * room)
        for row in page:
            if row.need in full or job_table.backs_off(row.not_before, tx.now):
                continue
            excluded = excluded_of(row.excluded)
            holders = partial(held, tx, context, row.id) if context.holdings else None
            machine = _choose(machines, need_of(row.need), excluded, holders)
            if machine is not None:
                chosen.append((row.id, machine.id))
            elif not excluded:
                full.add(row.need)
                if all(unmet(need_of(row.need), one.capacity, one.slots) for one in machines):
                    tx.notify("unfit")
        if len(page) < 2 * room:
            more = bool(full)
            break
        after = (page[-1].priority, page[-1].queued_at, page[-1].id)
    load(batch, [job_id for job_id, _ in chosen])
    placed: list[tuple[UUID, UUID]] = []
    for job_id, runner_id in chosen:
        if job_id not in batch.jobs:
            more = True
            continue
        attempt_id = context.ids.new(tx.now)
        answer = batch.job(job_id, job_table.Placed(), Facts(runner_id=runner_id, attempt_id=attempt_id))
        if answer.outcome == "applied":
            placed.append((attempt_id, runner_id))
    batch.store()
    return Placed(placed, more)


def _choose(
    machines: list[Machine],
    need: Requirements,
    excluded: set[UUID],
    holders: Callable[[], dict[UUID, int]] | None,
) -> Machine | None:
    """Of the runners with room now the one with most of the job's large inputs, then with the fewest jobs; else one
    that may let the job wait."""
    fitting = [
        machine
        for machine in machines
        if not machine.drained and machine.id not in excluded and not unmet(need, machine.capacity, machine.slots)
    ]
    inputs = holders() if holders is not None and len(fitting) > 1 else {}
    for machine in sorted(fitting, key=lambda machine: (-inputs.get(machine.id, 0), machine.jobs)):
        if machine.free.take(need):
            machine.jobs += 1
            return machine
    for machine in fitting:
        if machine.free.take_ahead(need):
            machine.jobs += 1
            return machine
    return None


def find_machines(tx: Transaction, context: Context) -> list[Machine]:
    """Online runners with what is left of them after the attempts they hold."""
    found = {
        row.id: Machine(
            row.id, capacity_of(row.capacity), row.slots, Free.of(capacity_of(row.capacity), row.slots), row.drain_asked
        )
        for row in tx.rows(_SELECT_RUNNERS, {"project": context.project_id})
    }
    for row in tx.rows(_SELECT_HELD, {"project": context.project_id}):
        machine = found.get(row.runner_id)
        if machine is None or row.state == "saving":
            continue
        machine.jobs += 1
        need = need_of(row.need)
        if row.state != "assigned" or not machine.free.take(need):
            if row.state == "assigned":
                machine.free.ahead -= 1
            else:
                machine.free.occupy(need)
    return list(found.values())


def _queued(tx: Transaction, context: Context, after: tuple[int, int, UUID] | None, size: int) -> list[Any]:
    params = {"project": context.project_id, "size": size}
    if after is None:
        return tx.rows(_SELECT_QUEUED, params)
    priority, queued_at, job_id = after
    return tx.rows(_SELECT_QUEUED_AFTER, {**params, "priority": priority, "queued_at": queued_at, "id": job_id})


def excluded_of(blob: bytes | None) -> set[UUID]:
    if not blob:
        return set()
    found: list[bytes] = msgspec.msgpack.decode(blob)
    return {UUID(bytes=value) for value in found}


@lru_cache(maxsize=4096)
def need_of(text: str) -> Requirements:
    return decode_need(text)


@lru_cache(maxsize=4096)
def capacity_of(blob: bytes) -> Capacity:
    return msgspec.msgpack.decode(blob, type=Capacity)


_ALONE = text("SELECT pg_advisory_xact_lock(:key)")
_TRY_ALONE = text("SELECT pg_try_advisory_xact_lock(:key)")
_PROJECT = bindparam("project", type_=Id)
_SELECT_RUNNERS = Prepared(
    select(runners.c.id, runners.c.capacity, runners.c.slots, runners.c.drain_asked).where(
        runners.c.project_id == _PROJECT, runners.c.state == "online"
    )
)
_SELECT_HELD = Prepared(
    select(attempts.c.runner_id, attempts.c.state, jobs.c.need)
    .join(jobs, and_(jobs.c.project_id == attempts.c.project_id, jobs.c.id == attempts.c.job_id))
    .where(attempts.c.project_id == _PROJECT, attempts.c.state != "ended")
)
_QUEUED = (
    select(jobs.c.id, jobs.c.need, jobs.c.excluded, jobs.c.priority, jobs.c.queued_at, jobs.c.not_before)
    .where(jobs.c.project_id == _PROJECT, jobs.c.state == "queued")
    .order_by(jobs.c.priority.desc(), jobs.c.queued_at, jobs.c.id)
    .limit(bindparam("size", type_=Integer))
)
_SELECT_QUEUED = Prepared(_QUEUED)
_SELECT_QUEUED_AFTER = Prepared(
    _QUEUED.where(
        (jobs.c.priority < bindparam("priority"))
        | and_(jobs.c.priority == bindparam("priority"), jobs.c.queued_at > bindparam("queued_at"))
        | and_(
            jobs.c.priority == bindparam("priority"),
            jobs.c.queued_at == bindparam("queued_at"),
            jobs.c.id > bindparam("id"),
        )
    )
)
