"""What a run that follows an earlier one takes from it: jobs that are done, snapshots to begin from, pinned inputs.

The new run gets rows of its own for all of it: artifacts with attempt 0. So nothing depends on the earlier run any
more, which may be deleted, and whoever reads a job's artifacts need not know where they came from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy import select

from dstack.domain.lifecycle.job import JobState
from dstack.domain.parts import parts
from dstack.domain.reasons import Reason
from dstack.domain.resuming import Before, StepOfRun, taken_over
from dstack.sdk.provider import JobSpec
from dstack.server.db.engine import Transaction
from dstack.server.db.tables import jobs, runs, steps, submissions
from dstack.server.services.beginnings import Beginning, Row, Snapshots
from dstack.server.services.context import Context
from dstack.server.services.errors import NotFound
from dstack.server.services.going_back import GoingBack
from dstack.server.services.losses import Losses
from dstack.server.services.moments import NOT_ASKED, Wanted, listing, resolve
from dstack.server.services.stored import StoredInput, StoredPlan, StoredSubmission
from dstack.workflows import Diagnostic, PlannedStep, ReusedInput, RunPlan
from dstack.workflows.inputs import LATEST

_decode_spec = msgspec.msgpack.Decoder(JobSpec).decode
_decode_plan = msgspec.msgpack.Decoder(StoredPlan).decode
_decode_submission = msgspec.msgpack.Decoder(StoredSubmission).decode


@dataclass(frozen=True, slots=True)
class OldJob:
    """A job of the earlier run. `origin_id` and `origin_run` say where it ran, however often it was reused since."""

    id: UUID
    name: str
    provider: str
    state: str
    origin_id: UUID
    origin_run: str
    encoded_spec: bytes
    """What made its artifacts: a job that is reused keeps it, whatever its workflow says by now."""
    spec: JobSpec


@dataclass(frozen=True, slots=True)
class OldRun:
    """The earlier run, which is over and changes no more: its row, what was submitted, its steps and jobs by name."""

    row: Any
    submission: StoredSubmission
    steps: Mapping[str, StoredPlan]
    jobs: Mapping[str, OldJob]
    pins: tuple[tuple[StoredInput, bool], ...]
    """Its inputs from other runs; whether each is of its own repository."""

    @property
    def name(self) -> str:
        return self.row.name

    @property
    def follows(self) -> str:
        """The run that this one resumed, if it did."""
        return next((plan.resumed_from for plan in self.steps.values() if plan.resumed_from), "")


def load(tx: Transaction, project_id: UUID, run_id: UUID) -> OldRun:
    """All of it decoded, which takes long for a large run: not for a transaction that writes. Raises NotFound."""
    row = tx.execute(select(runs).where(runs.c.project_id == project_id, runs.c.id == run_id)).first()
    if row is None:
        raise _deleted()
    body = tx.execute(
        select(submissions.c.body).where(submissions.c.project_id == project_id, submissions.c.run_id == run_id)
    ).scalar_one()
    found = select(steps.c.name, steps.c.plan).where(steps.c.project_id == project_id, steps.c.run_id == run_id)
    plans = {name: _decode_plan(plan) for name, plan in tx.execute(found) if plan}
    return OldRun(
        row,
        _decode_submission(body),
        plans,
        {job.name: job for job in _jobs(tx, project_id, run_id, row.name)},
        _pins(tx, project_id, row.repository_id, plans.values()),
    )


def _deleted() -> NotFound:
    return NotFound("the run was deleted meanwhile")


def _check_again(tx: Transaction, project_id: UUID, old: OldRun, *, lock: bool) -> None:
    """Raises NotFound where it was deleted meanwhile; with `lock` it cannot be before `tx`, which writes, is over."""
    query = select(runs.c.id).where(runs.c.project_id == project_id, runs.c.id == old.row.id)
    if tx.execute(query.with_for_update(read=True) if lock else query).first() is None:
        raise _deleted()


def _jobs(tx: Transaction, project_id: UUID, run_id: UUID, run_name: str) -> Iterable[OldJob]:
    query = select(
        jobs.c.id,
        jobs.c.name,
        jobs.c.provider,
        jobs.c.state,
        jobs.c.reason,
        jobs.c.detail,
        jobs.c.reused_from,
        jobs.c.spec,
    ).where(jobs.c.project_id == project_id, jobs.c.run_id == run_id)
    for row in tx.execute(query):
        origin = (row.reused_from, row.detail) if row.reason == Reason.REUSED else (row.id, run_name)
        yield OldJob(row.id, row.name, row.provider, row.state, *origin, row.spec, _decode_spec(row.spec))


def _pins(
    tx: Transaction, project_id: UUID, repository_id: UUID, plans: Iterable[StoredPlan]
) -> tuple[tuple[StoredInput, bool], ...]:
    pinned = [item for plan in plans for item in plan.inputs]
    repositories = _repositories(tx, project_id, {item.run_name for item in pinned})
    # Of a run that is gone it is not known any more; nearly all are of the same repository.
    return tuple((item, repositories.get(item.run_name, repository_id) == repository_id) for item in pinned)


def _repositories(tx: Transaction, project_id: UUID, names: Collection[str]) -> dict[str, UUID]:
    """The repositories of the runs with these names that there are."""
    found: dict[str, UUID] = {}
    for part in parts(sorted(names)):
        query = select(runs.c.name, runs.c.repository_id).where(runs.c.project_id == project_id, runs.c.name.in_(part))
        found.update((name, of) for name, of in tx.execute(query))
    return found


@dataclass(frozen=True, slots=True)
class Carried:
    """What jobs of the new run, by name, take from the old one."""

    run: str = ""
    run_id: UUID | None = None
    reused: Mapping[str, OldJob] = field(default_factory=dict[str, OldJob])
    saved: Mapping[str, Sequence[Row]] = field(default_factory=dict[str, "Sequence[Row]"])
    """Of reused jobs their artifacts; of others the snapshots that they begin from."""

    deleted: frozenset[str] = frozenset()
    """Runs that the old one's inputs came from, and that are gone."""
    warnings: tuple[Diagnostic, ...] = ()

    def is_reused(self, step: PlannedStep) -> bool:
        """Whether no job of the step is to run."""
        return bool(self.reused) and all(job_name(step, spec) in self.reused for spec in step.jobs)


NOTHING = Carried()


def job_name(step: PlannedStep, spec: JobSpec) -> str:
    """A job's name, unique in its run."""
    return f"{step.name}-{spec.name}" if spec.name else step.name


@dataclass(frozen=True, slots=True)
class Prior:
    """The earlier run, and what of it is wanted. `again` are names of jobs and steps; None: everything starts again."""

    old: OldRun
    command: str
    """What the caller has written."""
    again: frozenset[str] | None = frozenset()
    fresh: bool = False
    """Begin without the snapshots of the jobs that start again."""
    wanted: Wanted = NOT_ASKED
    """What these jobs go back to, if not to their last snapshots."""

    def pinned(
        self, workflow: str | None, tag: str | None, own: bool, ask: Callable[[], list[ReusedInput]]
    ) -> list[ReusedInput]:
        """What the earlier run was given for a dependency; what `ask` says for one that it did not have."""
        known = [item for item, of_own in self.old.pins if of_own == own]
        of = [item for item in known if workflow in (None, item.workflow)]
        pins = [item for item in of if item.tag == tag]
        if not pins and tag == LATEST:
            pins = [item for item in of if item.tag is None]  # nobody had set it, so it meant the newest run
        elif not pins and tag is None and not own:
            pins = [item for item in known if item.tag == workflow]  # a name in another repository may be a tag's
        found = [msgspec.convert(item, ReusedInput, from_attributes=True) for item in pins]
        return list({(item.path, item.job_name): item for item in found}.values()) or ask()

    def carry(self, tx: Transaction, context: Context, planned: RunPlan, *, lock: bool = False) -> Carried:
        """What the run of `planned` takes over.

        Raises NotFound where the earlier run was deleted meanwhile, Conflict where what a job should have of it is
        not in the store any more, and NotFound, BadRequest or Conflict where jobs cannot go back to what is wanted.
        """
        old = self.old
        _check_again(tx, context.project_id, old, lock=lock)
        sources = {item.run_name for item, _ in old.pins}
        deleted = frozenset(sources - _repositories(tx, context.project_id, sources).keys())
        listed = listing(old.name, old.follows)
        moment = resolve(tx, context, old.row.id, old.name, self.wanted, listed)
        snapshots = Snapshots(tx, context, old.row.id, moment, lock=lock)
        chosen = self._chosen(planned, snapshots)
        taken, done = chosen.taken, chosen.done
        beginnings = {} if self.fresh else _beginnings(planned, snapshots, taken, done)
        back = GoingBack(old.name, listed, moment, snapshots, beginnings, taken, done, chosen.asked)
        back.check()
        losses = Losses(old.name, self.command, beginnings, done, chosen.redone)
        if chosen.asked.isdisjoint(snapshots.lost):  # who names one of them has been told
            losses.check()
        return Carried(
            old.name,
            old.row.id,
            {name: old.jobs[name] for name in taken},
            {name: snapshots.saved.get(name, ()) for name in taken}
            | {name: beginning.rows for name, beginning in beginnings.items()},
            deleted,
            (*back.warnings(), *losses.warnings()),
        )

    def _chosen(self, planned: RunPlan, snapshots: Snapshots) -> _Chosen:
        old = self.old
        names = [
            StepOfRun(step.name, step.needs, tuple(job_name(step, spec) for spec in step.jobs))
            for step in planned.steps
        ]
        done = {name for name, job in old.jobs.items() if job.state == JobState.DONE}
        whole = {name for name in done if snapshots.has_all(name, old.jobs[name].spec.artifacts)}
        skipped = {name for name, job in old.jobs.items() if job.state == JobState.SKIPPED}
        again = {step.name for step in planned.steps} if self.again is None else self.again
        taken = taken_over(names, Before(whole, skipped), again)
        wanted = taken_over(names, Before(done, skipped), again) - taken
        named = self.again or frozenset[str]()
        return _Chosen(
            taken,
            done,
            {name: snapshots.lost[name] for name in sorted(wanted) if name in snapshots.lost},
            frozenset(job for step in names for job in step.jobs if job in named or step.name in named),
        )


class _Chosen(NamedTuple):
    """Names of jobs."""

    taken: Collection[str]
    """Reused as they ended."""
    done: Collection[str]
    """Of the earlier run."""
    redone: Mapping[str, Sequence[Row]]
    """Those that would be reused, had the store not lost these."""
    asked: frozenset[str]
    """Those that are to start again by name."""


def _beginnings(
    planned: RunPlan, snapshots: Snapshots, taken: Collection[str], done: Collection[str]
) -> dict[str, Beginning]:
    """What the jobs that start again begin from."""
    return {
        name: snapshots.beginning(name, spec.artifacts, done=name in done)
        for step in planned.steps
        for spec in step.jobs
        if (name := job_name(step, spec)) not in taken
    }
