"""Why a job waits, in words: dependencies, a requirement, a full machine, its place in the queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import and_, func, select

from dstack.domain.placement import describe, unmet
from dstack.domain.resources import Capacity
from dstack.server.db.engine import Transaction
from dstack.server.db.tables import attempts, jobs, runners, runs, step_needs, steps
from dstack.server.services.problems import problems
from dstack.server.services.stored import decode_need
from dstack.server.settings import Settings

SHOWN = 20
"""Jobs of a run that are told of; it may have thousands."""
MOST_AHEAD = 1000
"""Jobs that are counted one by one: whether 5,000 or a million are ahead is the same to who waits."""


def whys(
    tx: Transaction, project_id: UUID, run_id: UUID, settings: Settings, unstored: Mapping[UUID, str]
) -> dict[UUID, str]:
    """Why the first jobs of a run that wait do so, by job, in plan order; and what keeps others from saving."""
    query = _select_waiting(project_id, run_id).where(jobs.c.state.in_(["waiting", "queued", "assigned"])).limit(SHOWN)
    found = ((row["id"], why(tx, project_id, row, tx.now, settings)) for row in tx.execute(query).mappings().all())
    waiting = {job_id: text for job_id, text in found if text is not None}
    return waiting | problems(tx, project_id, run_id, unstored, SHOWN)


def first_why(tx: Transaction, project_id: UUID, run_id: UUID, settings: Settings) -> str | None:
    """Why the first job of a run that could begin does not yet; None when nothing holds it."""
    found = tx.execute(
        _select_waiting(project_id, run_id).where(jobs.c.state.in_(["queued", "assigned"])).limit(1)
    ).mappings()
    row = next(iter(found), None)
    return why(tx, project_id, row, tx.now, settings) if row is not None else None


def why(tx: Transaction, project_id: UUID, job: Any, now: int, settings: Settings) -> str | None:
    """Why `job` (a row with id, step_id, state, need, attempt…) does not run yet; None when nothing holds it."""
    match job["state"]:
        case "waiting":
            return _dependencies(tx, project_id, job)
        case "queued":
            return _queued(tx, project_id, job, now, settings)
        case "assigned":
            return _assigned(tx, project_id, job)
        case _:
            return None


def _select_waiting(project_id: UUID, run_id: UUID) -> Any:
    return (
        select(
            jobs.c.id, jobs.c.step_id, jobs.c.state, jobs.c.need, jobs.c.attempt, jobs.c.queued_at, jobs.c.not_before,
            jobs.c.excluded, jobs.c.detail, jobs.c.run_id,
        )
        .where(jobs.c.project_id == project_id, jobs.c.run_id == run_id)
        .order_by(jobs.c.submitted_at, jobs.c.id)
    )  # fmt: skip


def _dependencies(tx: Transaction, project_id: UUID, job: Any) -> str:
    query = (
        select(steps.c.name, steps.c.state)
        .join(step_needs, and_(step_needs.c.project_id == steps.c.project_id, step_needs.c.needs_id == steps.c.id))
        .where(step_needs.c.project_id == project_id, step_needs.c.step_id == job["step_id"], steps.c.open_jobs > 0)
        .order_by(steps.c.position)
    )
    names = [name for name, _ in tx.execute(query)]
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"waits for {shown} to finish"


def _queued(tx: Transaction, project_id: UUID, job: Any, now: int, settings: Settings) -> str:
    if job["not_before"] is not None and job["not_before"] > now:
        return f"waits {(job['not_before'] - now) / 1e6:.0f} s before its next attempt"
    need = decode_need(job["need"])
    found = tx.execute(
        select(runners.c.id, runners.c.name, runners.c.capacity, runners.c.slots).where(
            runners.c.project_id == project_id, runners.c.state == "online", runners.c.drain_asked.is_(False)
        )
    ).all()
    if not found:
        return no_runner(settings)
    misfits = [unmet(need, msgspec.msgpack.decode(row.capacity, type=Capacity), row.slots) for row in found]
    if all(misfits):
        return f"asked for {describe(need)}, which no runner that is online has: {'; '.join(misfits[0])}"
    excluded: list[bytes] = msgspec.msgpack.decode(job["excluded"]) if job["excluded"] else []
    fitting = [row for row, missing in zip(found, misfits, strict=True) if not missing]
    if all(row.id.bytes in excluded for row in fitting):
        names = ", ".join(row.name for row in fitting) + (f" ({job['detail']})" if job["detail"] else "")
        return f"rejected by {names}, and no other runner fits ({describe(need)})"
    before = (
        select(jobs.c.id)
        .where(jobs.c.project_id == project_id, jobs.c.state == "queued", jobs.c.queued_at < job["queued_at"])
        .limit(MOST_AHEAD + 1)
    )
    ahead = tx.execute(select(func.count()).select_from(before.subquery())).scalar_one()
    counted = f"{ahead}" if ahead <= MOST_AHEAD else f"more than {MOST_AHEAD}"
    place = f"{counted} queued before it" if ahead else "it is next"
    return f"every runner that fits ({describe(need)}) is busy; {place}"


def no_runner(settings: Settings) -> str:
    """What to do when nothing is there to run a job."""
    if settings.local_runner:
        return f"no runner is online; this machine's own is being started, see {settings.home}/runner/runner.log"
    return "no runner is online; one is started with `dstack runner`"


def _assigned(tx: Transaction, project_id: UUID, job: Any) -> str:
    row = tx.execute(
        select(attempts.c.runner_id, runners.c.name)
        .join(runners, and_(runners.c.project_id == attempts.c.project_id, runners.c.id == attempts.c.runner_id))
        .where(attempts.c.project_id == project_id, attempts.c.job_id == job["id"], attempts.c.number == job["attempt"])
    ).first()
    if row is None:
        return "is being given to a runner"
    running = tx.execute(
        select(jobs.c.name, jobs.c.run_id, runs.c.name.label("run"))
        .join(attempts, and_(attempts.c.project_id == jobs.c.project_id, attempts.c.job_id == jobs.c.id))
        .join(runs, and_(runs.c.project_id == jobs.c.project_id, runs.c.id == jobs.c.run_id))
        .where(
            attempts.c.project_id == project_id,
            attempts.c.runner_id == row.runner_id,
            attempts.c.state.in_(["starting", "running"]),
        )
        .order_by(attempts.c.id)
        .limit(4)
    ).all()
    if not running:
        return f"runner {row.name} is taking it"
    names = [item.name if item.run_id == job["run_id"] else f"{item.name} of {item.run}" for item in running]
    return f"waits on runner {row.name} behind {', '.join(names[:3])}" + (" and others" if len(names) > 3 else "")
