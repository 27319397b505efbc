"""What a run that follows an earlier one takes from it: jobs that are done, snapshots to begin from, pinned inputs.

The new run gets rows of its own for all of it: artifacts with attempt 0. So nothing depends on the earlier run any
more, which may be deleted, and whoever reads a job's artifacts need not know where they came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import select

from dstack.domain.lifecycle.job import JobState
from dstack.domain.reasons import Reason
from dstack.domain.resuming import Before, StepOfRun, taken_over
from dstack.sdk.provider import JobSpec
from dstack.server.db.engine import Transaction
from dstack.server.db.tables import jobs, runs, steps, submissions
from dstack.server.services.artifacts import newest_of_run
from dstack.server.services.catalog import hold_for, lacking
from dstack.server.services.context import Context
from dstack.server.services.errors import NotFound
from dstack.server.services.stored import StoredInput, StoredPlan, StoredSubmission
from dstack.workflows import Diagnostic, PlannedStep, ReusedInput, RunPlan
from dstack.workflows.inputs import LATEST

_decode_spec = msgspec.msgpack.Decoder(JobSpec).decode
_decode_plan = msgspec.msgpack.Decoder(StoredPlan).decode
_PART = 500


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

    @property
    def spec(self) -> JobSpec:
        return _decode_spec(self.encoded_spec)


@dataclass(frozen=True, slots=True)
class OldRun:
    """The earlier run: its row, what was submitted, its steps and jobs by name."""

    row: Any
    submission: StoredSubmission
    steps: Mapping[str, StoredPlan]
    jobs: Mapping[str, OldJob]
    pins: tuple[tuple[StoredInput, bool], ...]
    """Its inputs from other runs; whether each is of its own repository."""
    deleted: frozenset[str]
    """Those of these runs that are gone."""

    @property
    def name(self) -> str:
        return self.row.name


def load(tx: Transaction, project_id: UUID, run_id: UUID, *, lock: bool = False) -> OldRun:
    """Raises NotFound where it was deleted meanwhile; with `lock` it cannot be before `tx`, which writes, is over."""
    query = select(runs).where(runs.c.project_id == project_id, runs.c.id == run_id)
    row = tx.execute(query.with_for_update(read=True) if lock else query).first()
    if row is None:
        raise NotFound("the run was deleted meanwhile")
    body = tx.execute(
        select(submissions.c.body).where(submissions.c.project_id == project_id, submissions.c.run_id == run_id)
    ).scalar_one()
    found = select(steps.c.name, steps.c.plan).where(steps.c.project_id == project_id, steps.c.run_id == run_id)
    plans = {name: _decode_plan(plan) for name, plan in tx.execute(found) if plan}
    pins, deleted = _pins(tx, project_id, row.repository_id, plans.values())
    return OldRun(
        row,
        msgspec.msgpack.decode(body, type=StoredSubmission),
        plans,
        {job.name: job for job in _jobs(tx, project_id, run_id, row.name)},
        pins,
        deleted,
    )


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
        yield OldJob(row.id, row.name, row.provider, row.state, *origin, row.spec)


def _pins(
    tx: Transaction, project_id: UUID, repository_id: UUID, plans: Iterable[StoredPlan]
) -> tuple[tuple[tuple[StoredInput, bool], ...], frozenset[str]]:
    pinned = [item for plan in plans for item in plan.inputs]
    names = sorted({item.run_name for item in pinned})
    repositories: dict[str, UUID] = {}
    for part in (names[start : start + _PART] for start in range(0, len(names), _PART)):
        query = select(runs.c.name, runs.c.repository_id).where(runs.c.project_id == project_id, runs.c.name.in_(part))
        repositories.update((name, of) for name, of in tx.execute(query))
    # Of a run that is gone it is not known any more; nearly all are of the same repository.
    own = tuple((item, repositories.get(item.run_name, repository_id) == repository_id) for item in pinned)
    return own, frozenset(names) - repositories.keys()


@dataclass(frozen=True, slots=True)
class Carried:
    """What jobs of the new run, by name, take from the old one."""

    run: str = ""
    run_id: UUID | None = None
    reused: Mapping[str, OldJob] = field(default_factory=dict[str, OldJob])
    saved: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict[str, "Sequence[Mapping[str, Any]]"])
    """Of reused jobs their artifacts; of others the snapshots that they begin from. Rows of the newest ones."""

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
    again: frozenset[str] | None = frozenset()
    fresh: bool = False
    """Begin without the snapshots of the jobs that start again."""

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
        """What the run of `planned` takes over. Raises NotFound where the earlier run was deleted meanwhile.

        Snapshots that are not in the store any more count as never taken.
        """
        old = load(tx, context.project_id, self.old.row.id, lock=lock)
        saved, lost = _saved(tx, context, old, lock=lock)
        names = [
            StepOfRun(step.name, step.needs, tuple(job_name(step, spec) for spec in step.jobs))
            for step in planned.steps
        ]
        states = Before(
            done={name for name, job in old.jobs.items() if job.state == JobState.DONE and _is_whole(job, saved)},
            skipped={name for name, job in old.jobs.items() if job.state == JobState.SKIPPED},
        )
        again = {step.name for step in planned.steps} if self.again is None else self.again
        taken = taken_over(names, states, again)
        carried: dict[str, Sequence[Mapping[str, Any]]] = {name: saved.get(name, []) for name in taken}
        if not self.fresh:
            for step in planned.steps:
                for spec in step.jobs:
                    name = job_name(step, spec)
                    if name not in taken:
                        carried[name] = _to_begin_from(spec, saved.get(name, []))
        warnings = () if self.fresh else tuple(_begins_without(old, row) for row in lost if row["job"] in carried)
        return Carried(old.name, old.row.id, {name: old.jobs[name] for name in taken}, carried, old.deleted, warnings)


Rows = list[dict[str, Any]]


def _saved(tx: Transaction, context: Context, old: OldRun, *, lock: bool) -> tuple[dict[str, Rows], Rows]:
    """The newest snapshots, by job, and those that are not in the store any more; with `lock` the former stay in it."""
    rows = newest_of_run(tx, context.project_id, old.row.id)
    look = hold_for if lock else lacking
    gone = look(tx, context, sorted({row["manifest_id"] for row in rows}))
    saved: dict[str, Rows] = {}
    for row in rows:
        if row["manifest_id"] not in gone:
            saved.setdefault(row["job"], []).append(row)
    return saved, [row for row in rows if row["manifest_id"] in gone]


def _begins_without(old: OldRun, row: Mapping[str, Any]) -> Diagnostic:
    message = f"what {row['job']} of {old.name} saved in `{row['path']}` is not in the store any more: it runs without"
    return Diagnostic("warning", None, None, None, message, "", "`dstack verify --all` says what else is damaged")


def _is_whole(job: OldJob, saved: Mapping[str, Sequence[Mapping[str, Any]]]) -> bool:
    """Whether all that a job saved is still there: else what comes after it would lack it."""
    return {row["path"] for row in saved.get(job.name, ())} >= set(job.spec.artifacts)


def _to_begin_from(spec: JobSpec, saved: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """An empty folder is there in any case."""
    return [row for row in saved if row["path"] in spec.artifacts and row["files"]]
