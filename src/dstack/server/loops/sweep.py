"""Deadlines: jobs and runs that stayed in a state for too long, runners that fell silent, values that nobody needs."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import and_, exists, func, or_, select, update

from dstack.domain.lifecycle import job as job_table
from dstack.domain.lifecycle import run as run_table
from dstack.domain.lifecycle import runner as runner_table
from dstack.domain.ports import SECOND
from dstack.domain.reasons import Reason
from dstack.server.db.engine import Transaction, declare_write
from dstack.server.db.tables import attempts, jobs, runners, runs
from dstack.server.services import run_values
from dstack.server.services.apply import Batch
from dstack.server.services.context import Context
from dstack.server.services.facts import Facts
from dstack.server.services.runner_moves import move

SWEEP = declare_write("sweep")
BATCH = 500


def sweep(context: Context) -> int:
    """Act on every deadline that passed; returns how many rows had one. Reads first: an idle server writes nothing."""
    if not context.database.read(lambda tx: _due(tx, context)):
        return 0
    return context.database.write(SWEEP, lambda tx: _sweep(tx, context))


def _due(tx: Transaction, context: Context) -> bool:
    project, now = context.project_id, tx.now
    queries = (
        select(jobs.c.id).where(jobs.c.project_id == project, jobs.c.deadline_at <= now),
        select(runs.c.id).where(runs.c.project_id == project, runs.c.state == "planning", runs.c.deadline_at <= now),
        select(runners.c.id).where(runners.c.project_id == project, _silent(context, now)),
    )
    overdue = any(tx.execute(query.limit(1)).first() is not None for query in queries)
    return overdue or bool(run_values.left_over(tx, project))


def _silent(context: Context, now: int) -> Any:
    """Runners whose lease is over, or lost for so long that what they hold ends."""
    online = runner_table.RunnerState.ONLINE.value
    lost = runner_table.RunnerState.LOST.value
    longest = now - int(min(context.settings.lost_after, context.settings.lost_after_retry) * SECOND)
    return or_(
        and_(runners.c.state == online, runners.c.lease_until <= now),
        and_(runners.c.state == lost, runners.c.lost_at <= longest),
    )


def _sweep(tx: Transaction, context: Context) -> int:
    batch = Batch(tx, context.project_id, context.settings, context.ids)
    acted = _overdue_jobs(tx, context, batch) + _overdue_runs(tx, context, batch)
    acted += _silent_runners(tx, context, batch)
    batch.store()
    left_over = run_values.left_over(tx, context.project_id)
    run_values.forget(tx, context.project_id, left_over)
    return acted + len(left_over)


def _overdue_jobs(tx: Transaction, context: Context, batch: Batch) -> int:
    query = select(jobs.c.id).where(jobs.c.project_id == context.project_id, jobs.c.deadline_at <= tx.now)
    due = list(tx.execute(query.limit(BATCH)).scalars())
    batch.load_jobs(due)
    postponed: list[UUID] = []
    for job_id in due:
        row = batch.jobs[job_id]
        match row.state:
            case "queued":
                tx.notify("place")
                postponed.append(job_id)
            case "assigned":
                if _runner_is_silent(tx, context, row.runner_id):
                    batch.job(job_id, job_table.Returned(row.attempt), Facts(detail="its runner fell silent"))
                else:
                    postponed.append(job_id)
            case "starting":
                batch.job(job_id, job_table.SetupFailed(row.attempt, timeout=True))
            case "running":
                if batch.job(job_id, job_table.TimeLimit(row.attempt)).outcome == "applied":
                    row.deadline_at = None
                else:
                    postponed.append(job_id)  # it is being stopped already
            case "saving":
                batch.job(job_id, job_table.SaveFailed(row.attempt), Facts(detail="the save deadline passed"))
            case _:
                postponed.append(job_id)
    _postpone(tx, context, batch, postponed)
    return len(due)


def _postpone(tx: Transaction, context: Context, batch: Batch, ids: list[UUID]) -> None:
    """Deadlines that turned out not to be one: of jobs whose runner lives, that are stopping, that backed off."""
    for job_id in ids:
        row = batch.jobs[job_id]
        again = row.state == "assigned"
        until = tx.now + int(context.settings.assigned_lost_after * SECOND) if again else None
        tx.execute(
            update(jobs).where(jobs.c.project_id == context.project_id, jobs.c.id == job_id).values(deadline_at=until)
        )


def _runner_is_silent(tx: Transaction, context: Context, runner_id: UUID | None) -> bool:
    heard = tx.execute(
        select(runners.c.heartbeat_at).where(runners.c.project_id == context.project_id, runners.c.id == runner_id)
    ).scalar()
    return heard is None or heard + int(context.settings.assigned_lost_after * SECOND) <= tx.now


def _overdue_runs(tx: Transaction, context: Context, batch: Batch) -> int:
    query = select(runs.c.id).where(
        runs.c.project_id == context.project_id, runs.c.state == "planning", runs.c.deadline_at <= tx.now
    )
    due = list(tx.execute(query.limit(BATCH)).scalars())
    batch.load_runs(due)
    for run_id in due:
        batch.run(run_id, run_table.PlanFailed(timeout=True))
    return len(due)


def _silent_runners(tx: Transaction, context: Context, batch: Batch) -> int:
    query = select(runners).where(runners.c.project_id == context.project_id, _silent(context, tx.now))
    silent = tx.execute(query.limit(BATCH)).all()
    for row in silent:
        if row.state == runner_table.RunnerState.ONLINE:
            _lose(tx, context, row)
        else:
            _end_attempts(tx, context, batch, row)
    return len(silent)


def _lose(tx: Transaction, context: Context, row: Any) -> None:
    """The lease is over: lost while it holds attempts (they stay as they are), else offline."""
    held = exists(
        select(attempts.c.id).where(
            attempts.c.project_id == context.project_id, attempts.c.runner_id == row.id, attempts.c.state != "ended"
        )
    )
    holds = bool(tx.execute(select(held)).scalar())
    move(tx, context.project_id, row, runner_table.LeaseExpired(holds))
    for run_id in _runs_of(tx, context, row.id):
        tx.notify(f"run:{run_id.hex}")


def _end_attempts(tx: Transaction, context: Context, batch: Batch, row: Any) -> None:
    """End what a lost runner holds, once its time is up: sooner where the policy retries it."""
    query = select(attempts.c.job_id, attempts.c.number).where(
        attempts.c.project_id == context.project_id, attempts.c.runner_id == row.id, attempts.c.state != "ended"
    )
    held = tx.execute(query).all()
    batch.load_jobs(item.job_id for item in held)
    left = 0
    for item in held:
        job = batch.jobs[item.job_id]
        retries = Reason.RUNNER_LOST in job.stored_policy().retry_on
        after = context.settings.lost_after_retry if retries else context.settings.lost_after
        if row.lost_at + int(after * SECOND) <= tx.now:
            batch.job(item.job_id, job_table.Lost(item.number), Facts(detail=f"runner {row.name} fell silent"))
        else:
            left += 1
    if not left:
        move(tx, context.project_id, row, runner_table.NothingLeft())


def _runs_of(tx: Transaction, context: Context, runner_id: UUID) -> list[UUID]:
    query = select(attempts.c.run_id).distinct().where(
        attempts.c.project_id == context.project_id, attempts.c.runner_id == runner_id, attempts.c.state != "ended"
    )  # fmt: skip
    return list(tx.execute(query).scalars())


def next_deadline(context: Context) -> float:
    """Seconds until the next deadline, at most a tick."""
    project = context.project_id

    def read(tx: Transaction) -> float | None:
        job = select(func.min(jobs.c.deadline_at)).where(jobs.c.project_id == project, jobs.c.deadline_at.is_not(None))
        lease = select(func.min(runners.c.lease_until)).where(
            runners.c.project_id == project, runners.c.state == "online"
        )
        found = [tx.execute(query).scalar() for query in (job, lease)]
        return min(((at - tx.now) / SECOND for at in found if at is not None), default=None)

    left = context.database.read(read)
    tick = context.settings.tick
    return tick if left is None else min(tick, max(0.01, left))
