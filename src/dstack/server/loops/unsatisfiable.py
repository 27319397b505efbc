"""Jobs that no runner could ever run: they fail with what was asked, what is there and what to do."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import or_, select

from dstack.domain.lifecycle import job as job_table
from dstack.domain.placement import describe, unmet
from dstack.server.db.engine import Transaction, declare_write
from dstack.server.db.tables import jobs
from dstack.server.loops.place import Machine, excluded_of, find_machines, need_of
from dstack.server.services.apply import Batch, Facts
from dstack.server.services.context import Context

UNSATISFIABLE = declare_write("unsatisfiable")
SECOND = 1_000_000
BATCH = 500


def fail_unsatisfiable(context: Context) -> int:
    """Fail queued jobs that waited for `unsatisfiable_after` and fit no runner; returns how many."""
    found = context.database.read(lambda tx: _find(tx, context, context.clock.now()))
    if not found:
        return 0
    return context.database.write(UNSATISFIABLE, lambda tx: _fail(tx, context))


def _fail(tx: Transaction, context: Context) -> int:
    hopeless = _find(tx, context, tx.now)
    batch = Batch(tx, context.project_id, context.settings, context.ids)
    batch.load_jobs(job_id for job_id, _ in hopeless)
    for job_id, why in hopeless:
        batch.job(job_id, job_table.Unsatisfiable(), Facts(detail=why))
    batch.store()
    return len(hopeless)


def _find(tx: Transaction, context: Context, now: int) -> list[tuple[UUID, str]]:
    machines = find_machines(tx, context)
    if not machines:
        return []
    queued = (jobs.c.project_id == context.project_id, jobs.c.state == "queued")
    needs = tx.execute(select(jobs.c.need).distinct().where(*queued)).scalars().all()
    misfits = [need for need in needs if all(unmet(need_of(need), one.capacity, one.slots) for one in machines)]
    before = now - int(context.settings.unsatisfiable_after * SECOND)
    query = (
        select(jobs.c.id, jobs.c.need, jobs.c.excluded)
        .where(*queued, jobs.c.queued_at <= before, or_(jobs.c.need.in_(misfits), jobs.c.excluded.is_not(None)))
        .limit(BATCH)
    )
    found: list[tuple[UUID, str]] = []
    for row in tx.execute(query):
        why = _never(machines, row.need, excluded_of(row.excluded))
        if why is not None:
            found.append((row.id, why))
    return found


def _never(machines: list[Machine], need_text: str, excluded: set[UUID]) -> str | None:
    """Why none of `machines` can run a job, None when one can."""
    need = need_of(need_text)
    reasons: list[str] = []
    for machine in machines:
        missing = unmet(need, machine.capacity, machine.slots)
        if not missing and machine.id not in excluded:
            return None
        reasons.append("; ".join(missing) or "it rejected the job")
    told = ", or ".join(dict.fromkeys(reasons))
    return f"asked for {describe(need)}: {told}. Lower `resources` in the workflow, or add a machine that has it."
