"""Deadlines: jobs and runs that stayed in a state for too long, runners that fell silent, values that nobody needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import and_, exists, func, or_, select, update

from dstack.domain.lifecycle import job as job_table
from dstack.domain.lifecycle import run as run_table
from dstack.domain.lifecycle import runner as runner_table
from dstack.domain.lifecycle.runner import RunnerState
from dstack.domain.ports import SECOND
from dstack.domain.reasons import Reason
from dstack.server.db.engine import Transaction, declare_write
from dstack.server.db.tables import attempts, jobs, runners, runs
from dstack.server.services import run_values
from dstack.server.services.apply import Batch
from dstack.server.services.context import Context
from dstack.server.services.facts import Facts
from dstack.server.services.rows import JobRow
from dstack.server.services.runner_moves import move

SWEEP = declare_write("sweep")
BATCH = 500


def sweep(context: Context) -> int:
    """Act on every deadline that passed; returns how many rows had one. Reads first: an idle server writes nothing.

    Each kind has a transaction of its own, which locks in the order of all others: a runner, then runs by id.
    """
    kinds = context.database.read(lambda tx: _due(tx, context))
    return sum([context.database.write(SWEEP, partial(act, context)) for act in kinds])


def _due(tx: Transaction, context: Context) -> list[Callable[[Context, Transaction], int]]:
    """What acts on the kinds of which something is due."""
    project, now = context.project_id, tx.now
    queries = {
        _overdue_jobs: select(jobs.c.id).where(jobs.c.project_id == project, jobs.c.deadline_at <= now),
        _overdue_runs: select(runs.c.id).where(
            runs.c.project_id == project, runs.c.state == "planning", runs.c.deadline_at <= now
        ),
        _silent_runners: select(runners.c.id).where(runners.c.project_id == project, _silent(context, now)),
    }
    found = [act for act, query in queries.items() if tx.execute(query.limit(1)).first() is not None]
    return [*found, _left_over_values] if run_values.left_over(tx, project) else found


def _silent(context: Context, now: int) -> Any:
    """Runners whose time is up: online ones whose lease is over, and lost ones of whose attempts some may end now
    (their lease says when that is), or that hold none any more."""
    held = exists(
        select(attempts.c.id).where(
            attempts.c.project_id == context.project_id,
            attempts.c.runner_id == runners.c.id,
            attempts.c.state != "ended",
        )
    )
    return or_(
        and_(runners.c.state == RunnerState.ONLINE.value, runners.c.lease_until <= now),
        and_(runners.c.state == RunnerState.LOST.value, or_(runners.c.lease_until <= now, ~held)),
    )


def _overdue_jobs(context: Context, tx: Transaction) -> int:
    batch = Batch(tx, context.project_id, context.settings, context.ids)
    query = select(jobs.c.id).where(jobs.c.project_id == context.project_id, jobs.c.deadline_at <= tx.now)
    due = list(tx.execute(query.limit(BATCH)).scalars())
    batch.load_jobs(due)
    silent = _silent_holders(tx, context, [batch.jobs[job_id] for job_id in due])
    postponed: list[JobRow] = []
    for job_id in due:
        row = batch.jobs[job_id]
        if row.deadline_at is None or row.deadline_at > tx.now:
            continue  # it went on before its run was locked
        match row.state:
            case "queued":
                tx.notify("place")
                postponed.append(row)
            case "assigned":
                if row.runner_id in silent:
                    batch.job(job_id, job_table.Returned(row.attempt), Facts(detail="its runner fell silent"))
                else:
                    postponed.append(row)
            case "starting":
                batch.job(job_id, job_table.SetupFailed(row.attempt, timeout=True))
            case "running":
                if batch.job(job_id, job_table.TimeLimit(row.attempt)).outcome == "applied":
                    row.deadline_at = None
                else:
                    postponed.append(row)  # it is being stopped already
            case "saving":
                batch.job(job_id, job_table.SaveFailed(row.attempt), Facts(detail="the save deadline passed"))
            case _:
                postponed.append(row)
    _postpone(tx, context, postponed)
    batch.store()
    return len(due)


def _silent_holders(tx: Transaction, context: Context, found: Iterable[JobRow]) -> set[UUID | None]:
    """The runners of assigned jobs that were not heard for too long, or are not there."""
    holders = {row.runner_id for row in found if row.state == "assigned"}
    if not holders:
        return set()
    since = tx.now - int(context.settings.assigned_lost_after * SECOND)
    query = select(runners.c.id).where(
        runners.c.project_id == context.project_id, runners.c.id.in_(holders), runners.c.heartbeat_at > since
    )
    return holders - set(tx.execute(query).scalars())


def _postpone(tx: Transaction, context: Context, found: Iterable[JobRow]) -> None:
    """Deadlines that turned out not to be one: of jobs whose runner lives, that are stopping, that backed off."""
    again = tx.now + int(context.settings.assigned_lost_after * SECOND)
    ids: dict[int | None, list[UUID]] = {}
    for row in found:
        ids.setdefault(again if row.state == "assigned" else None, []).append(row.id)
    for until, those in ids.items():
        tx.execute(
            update(jobs).where(jobs.c.project_id == context.project_id, jobs.c.id.in_(those)).values(deadline_at=until)
        )


def _overdue_runs(context: Context, tx: Transaction) -> int:
    batch = Batch(tx, context.project_id, context.settings, context.ids)
    query = select(runs.c.id).where(
        runs.c.project_id == context.project_id, runs.c.state == "planning", runs.c.deadline_at <= tx.now
    )
    due = list(tx.execute(query.limit(BATCH)).scalars())
    batch.load_runs(due)
    for run_id in due:
        batch.run(run_id, run_table.PlanFailed(timeout=True))
    batch.store()
    return len(due)


def _left_over_values(context: Context, tx: Transaction) -> int:
    left_over = run_values.left_over(tx, context.project_id)
    run_values.forget(tx, context.project_id, left_over)
    return len(left_over)


def _silent_runners(context: Context, tx: Transaction) -> int:
    batch = Batch(tx, context.project_id, context.settings, context.ids)
    query = select(runners).where(runners.c.project_id == context.project_id, _silent(context, tx.now))
    # One that is being registered, or heard, at this moment is not silent.
    silent = tx.execute(query.order_by(runners.c.id).limit(BATCH).with_for_update(skip_locked=True)).all()
    if not silent:
        return 0
    held = _held(tx, context, [row.id for row in silent])
    lost = [row for row in silent if row.state == RunnerState.LOST]
    batch.load_jobs(item.job_id for row in lost for item in held.get(row.id, ()))
    for row in silent:
        (_end_attempts if row.state == RunnerState.LOST else _lose)(tx, context, batch, row, held.get(row.id, []))
    batch.store()
    return len(silent)


def _held(tx: Transaction, context: Context, ids: Sequence[UUID]) -> dict[UUID, list[Any]]:
    """The live attempts of runners."""
    query = select(attempts.c.runner_id, attempts.c.run_id, attempts.c.job_id, attempts.c.number).where(
        attempts.c.project_id == context.project_id, attempts.c.runner_id.in_(ids), attempts.c.state != "ended"
    )
    found: dict[UUID, list[Any]] = {}
    for item in tx.execute(query):
        found.setdefault(item.runner_id, []).append(item)
    return found


def _lose(tx: Transaction, context: Context, _: Batch, row: Any, held: Sequence[Any]) -> None:
    """The lease is over: lost while it holds attempts (they stay as they are), else offline."""
    first = min(context.settings.lost_after, context.settings.lost_after_retry)
    move(tx, context.project_id, row, runner_table.LeaseExpired(bool(held)), lease_until=tx.now + int(first * SECOND))
    for run_id in {item.run_id for item in held}:
        tx.notify(f"run:{run_id.hex}")


def _end_attempts(tx: Transaction, context: Context, batch: Batch, row: Any, held: Sequence[Any]) -> None:
    """End what a lost runner holds, once its time is up: sooner where the policy retries it."""
    next_at: int | None = None
    for item in held:
        job = batch.jobs[item.job_id]
        if job.attempt != item.number or job.state not in job_table.LIVE_ATTEMPT:
            continue  # it ended before its run was locked
        retries = Reason.RUNNER_LOST in job.stored_policy().retry_on
        after = context.settings.lost_after_retry if retries else context.settings.lost_after
        ends_at = row.lost_at + int(after * SECOND)
        if ends_at <= tx.now:
            batch.job(item.job_id, job_table.Lost(item.number), Facts(detail=f"runner {row.name} fell silent"))
        else:
            next_at = ends_at if next_at is None else min(next_at, ends_at)
    if next_at is None:
        move(tx, context.project_id, row, runner_table.NothingLeft())
        return
    this = (runners.c.project_id == context.project_id, runners.c.id == row.id, runners.c.version == row.version)
    tx.execute(update(runners).where(*this).values(lease_until=next_at))


def next_deadline(context: Context) -> float:
    """Seconds until the next deadline, at most a tick."""
    project = context.project_id

    def read(tx: Transaction) -> float | None:
        job = select(func.min(jobs.c.deadline_at)).where(jobs.c.project_id == project, jobs.c.deadline_at.is_not(None))
        lease = select(func.min(runners.c.lease_until)).where(
            runners.c.project_id == project, runners.c.state.in_([RunnerState.ONLINE.value, RunnerState.LOST.value])
        )
        found = [tx.execute(query).scalar() for query in (job, lease)]
        return min(((at - tx.now) / SECOND for at in found if at is not None), default=None)

    left = context.database.read(read)
    tick = context.settings.tick
    return tick if left is None else min(tick, max(0.01, left))
