"""Jobs that no runner could ever run: they fail with what was asked, what is there and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import or_, select

from dstack.domain.lifecycle import job as job_table
from dstack.domain.placement import describe, unmet
from dstack.domain.ports import SECOND
from dstack.domain.resources import Requirements
from dstack.server.db.engine import Transaction, declare_write
from dstack.server.db.tables import jobs
from dstack.server.services.apply import Batch
from dstack.server.services.context import Context
from dstack.server.services.facts import Facts
from dstack.server.services.place import Machine, excluded_of, find_machines, need_of
from dstack.workflows import PlannedStep

UNSATISFIABLE = declare_write("unsatisfiable")
BATCH = 500


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether the runners that are online could ever run what was planned.

    `misfits`: why not, by step. `unknown`: no runner is online, and a step asks for more than every machine has.
    """

    misfits: Mapping[str, str]
    unknown: bool = False


def fit(context: Context, steps: Iterable[PlannedStep]) -> Fit:
    """How the planned steps that may run fit the runners. Costs nothing where none asks for more than one CPU."""
    may_run = (step for step in steps if not step.skipped)
    asking = {step.name: {job.requirements for job in step.jobs} - {Requirements()} for step in may_run}
    asking = {name: needs for name, needs in asking.items() if needs}
    if not asking:
        return Fit({})
    machines = context.database.read(lambda tx: find_machines(tx, context))
    if not machines:
        return Fit({}, unknown=True)
    misfits: dict[str, str] = {}
    for name, needs in asking.items():
        for need in needs:
            missing = [unmet(need, machine.capacity, machine.slots) for machine in machines]
            if all(missing):
                misfits[name] = ", or ".join(dict.fromkeys("; ".join(reasons) for reasons in missing))
    return Fit(misfits)


def fail_unsatisfiable(context: Context) -> int:
    """Fail queued jobs that waited for `unsatisfiable_after` and fit no runner; returns how many."""
    failed = 0
    # Reads first: where all is well nothing is written. A run of 10,000 jobs may be hopeless as a whole.
    while context.database.read(lambda tx: _find(tx, context)):
        failed += context.database.write(UNSATISFIABLE, lambda tx: _fail(tx, context))
    return failed


def _fail(tx: Transaction, context: Context) -> int:
    hopeless = _find(tx, context)
    batch = Batch(tx, context.project_id, context.settings, context.ids)
    batch.load_jobs(job_id for job_id, _ in hopeless)
    for job_id, why in hopeless:
        batch.job(job_id, job_table.Unsatisfiable(), Facts(detail=why))
    batch.store()
    return len(hopeless)


def _find(tx: Transaction, context: Context) -> list[tuple[UUID, str]]:
    machines = find_machines(tx, context)
    if not machines:
        return []
    queued = (jobs.c.project_id == context.project_id, jobs.c.state == "queued")
    needs = tx.execute(select(jobs.c.need).distinct().where(*queued)).scalars().all()
    misfits = [need for need in needs if all(unmet(need_of(need), one.capacity, one.slots) for one in machines)]
    before = tx.now - int(context.settings.unsatisfiable_after * SECOND)
    query = (
        select(jobs.c.id, jobs.c.need, jobs.c.excluded, jobs.c.detail)
        .where(*queued, jobs.c.queued_at <= before, or_(jobs.c.need.in_(misfits), jobs.c.excluded.is_not(None)))
        .order_by(jobs.c.queued_at, jobs.c.id)
    )
    found: list[tuple[UUID, str]] = []
    for row in tx.execute(query):
        why = _never(machines, row.need, excluded_of(row.excluded), row.detail)
        if why is not None:
            found.append((row.id, why))
            if len(found) == BATCH:
                break
    return found


def _never(machines: list[Machine], need_text: str, excluded: set[UUID], said: str | None) -> str | None:
    """Why none of `machines` can run a job, None when one can; `said` is what the last that rejected it said."""
    need = need_of(need_text)
    reasons: list[str] = []
    rejected = False
    for machine in machines:
        missing = unmet(need, machine.capacity, machine.slots)
        if not missing and machine.id not in excluded:
            return None
        rejected = rejected or not missing
        reasons.append("; ".join(missing) or f"the runner rejected it ({said or 'without a reason'})")
    told = ", or ".join(dict.fromkeys(reasons))
    if rejected:
        return f"asked for {describe(need)}: {told}. See to that, or add a machine that takes it, and run it again."
    return f"asked for {describe(need)}: {told}. Lower `resources` in the workflow, or add a machine that has it."
