"""Rows that a batch of transitions holds in memory, and the statements that load and store them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import bindparam, func, insert, select, update

from dstack.domain.lifecycle.job import Intent, Job, JobState, Policy
from dstack.domain.lifecycle.run import Run, RunState
from dstack.domain.lifecycle.step import Step, StepState
from dstack.domain.reasons import Reason
from dstack.server.db.prepared import Prepared
from dstack.server.db.tables import attempts, events, jobs, runs, step_needs, steps
from dstack.server.db.types import Id


class StoredPolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    """The policy as the `jobs.policy` blob holds it. `timeout` is seconds per attempt."""

    retry_on: tuple[str, ...] = ()
    retry_max: int = 0
    backoff: float = 1.0
    timeout: float | None = None


_NO_POLICY = StoredPolicy()
_decode_policy = msgspec.msgpack.Decoder(StoredPolicy).decode


@lru_cache(maxsize=256)
def _policy_of(blob: bytes | None, max_unstarted: int) -> Policy:
    stored = _decode_policy(blob) if blob else _NO_POLICY
    return Policy(
        retry_on=frozenset(Reason(name) for name in stored.retry_on),
        retry_max=stored.retry_max,
        backoff=stored.backoff,
        max_unstarted=max_unstarted,
    )


@dataclass(slots=True)
class JobRow:
    """One row of `jobs` without its spec, mutable until the batch is stored."""

    id: UUID
    run_id: UUID
    step_id: UUID
    name: str
    state: str
    version: int
    intent: str
    intent_by: str | None
    intent_at: int | None
    intent_why: str | None
    attempt: int
    counted: int
    rejections: int
    unstarted: int
    excluded: bytes | None
    runner_id: UUID | None
    outcome: str | None
    reason: str | None
    detail: str | None
    exit_code: int | None
    signal: int | None
    artifacts_incomplete: bool
    log_incomplete: bool
    submitted_at: int
    queued_at: int | None
    not_before: int | None
    deadline_at: int | None
    started_at: int | None
    finished_at: int | None
    policy: bytes | None

    def stored_policy(self) -> StoredPolicy:
        return _decode_policy(self.policy) if self.policy else _NO_POLICY

    def domain(self, max_unstarted: int) -> Job:
        """The row as the table knows it; what all jobs' policies share comes from the settings."""
        return Job(
            state=JobState(self.state),
            intent=Intent(self.intent),
            attempt=self.attempt,
            counted=self.counted,
            rejections=self.rejections,
            unstarted=self.unstarted,
            outcome=Reason(self.outcome) if self.outcome else None,
            exit_code=self.exit_code,
            reason=Reason(self.reason) if self.reason else None,
            not_before=self.not_before,
            artifacts_incomplete=self.artifacts_incomplete,
            policy=_policy_of(self.policy, max_unstarted),
        )

    def take(self, job: Job) -> None:
        """Write the decided value into the row."""
        self.state = job.state.value
        self.intent = job.intent.value
        self.attempt = job.attempt
        self.counted = job.counted
        self.rejections = job.rejections
        self.unstarted = job.unstarted
        self.outcome = job.outcome.value if job.outcome else None
        self.exit_code = job.exit_code
        self.reason = job.reason.value if job.reason else None
        self.not_before = job.not_before
        self.artifacts_incomplete = job.artifacts_incomplete


@dataclass(slots=True)
class StepRow:
    id: UUID
    run_id: UUID
    name: str
    state: str
    version: int
    unmet: int
    open_jobs: int
    need_failed: bool
    need_skipped: bool
    rule: str
    fail_fast: bool
    continue_on_failure: bool

    def domain(self) -> Step:
        return Step(
            state=StepState(self.state),
            open_jobs=self.open_jobs,
            unmet=self.unmet,
            need_failed=self.need_failed,
            need_skipped=self.need_skipped,
            rule=self.rule,
            fail_fast=self.fail_fast,
            continue_on_failure=self.continue_on_failure,
        )

    def take(self, step: Step) -> None:
        """Write the decided value into the row."""
        self.state = step.state.value
        self.open_jobs = step.open_jobs
        self.unmet = step.unmet
        self.need_failed = step.need_failed
        self.need_skipped = step.need_skipped


@dataclass(slots=True)
class RunRow:
    id: UUID
    repository_id: UUID
    name: str
    workflow: str
    state: str
    version: int
    seq: int
    intent: str
    intent_by: str | None
    intent_at: int | None
    intent_why: str | None
    reason: str | None
    detail: str | None
    root_job_id: UUID | None
    submitted_at: int
    started_at: int | None
    finished_at: int | None
    deadline_at: int | None

    def domain(self) -> Run:
        return Run(RunState(self.state), Intent(self.intent), Reason(self.reason) if self.reason else None)


_FIXED = {
    "id", "version", "run_id", "step_id", "name", "repository_id", "workflow", "policy", "submitted_at",
    "rule", "fail_fast", "continue_on_failure",
}  # fmt: skip
_NAMES: dict[type, list[str]] = {
    row: [field.name for field in fields(row) if field.name not in _FIXED] for row in (JobRow, StepRow, RunRow)
}
"""Per row type, the columns that a batch may change."""


def _columns(table: Any, row: type) -> list[Any]:
    return [table.c[field.name] for field in fields(row)]


def _guarded_update(table: Any, row: type) -> Prepared:
    """UPDATE of every column of `row`, where id and the version read still match; the version goes up."""
    values: dict[str, Any] = {name: bindparam(f"v_{name}") for name in _NAMES[row]}
    return Prepared(
        update(table)
        .where(
            table.c.project_id == bindparam("k_project"),
            table.c.id == bindparam("k_id"),
            table.c.version == bindparam("k_version"),
        )
        .values(version=bindparam("k_version") + 1, **values)
    )


def parameters(project_id: UUID, row: Any) -> dict[str, Any]:
    """The bind parameters of a guarded update for `row`."""
    values = {f"v_{name}": getattr(row, name) for name in _NAMES[type(row)]}
    return {"k_project": project_id, "k_id": row.id, "k_version": row.version, **values}


def _those(column: Any) -> Any:
    """A row's column among the bound `ids`."""
    return column.in_(bindparam("ids", expanding=True))


_PROJECT = bindparam("project", type_=Id)
JOBS_BY_ID = Prepared(select(*_columns(jobs, JobRow)).where(jobs.c.project_id == _PROJECT, _those(jobs.c.id)))
JOBS_BY_STEP = Prepared(select(*_columns(jobs, JobRow)).where(jobs.c.project_id == _PROJECT, _those(jobs.c.step_id)))
RUNS_OF_JOBS = Prepared(select(jobs.c.run_id).distinct().where(jobs.c.project_id == _PROJECT, _those(jobs.c.id)))
JOBS_RUNS = Prepared(select(jobs.c.id, jobs.c.run_id).where(jobs.c.project_id == _PROJECT, _those(jobs.c.id)))
STEPS_BY_ID = Prepared(select(*_columns(steps, StepRow)).where(steps.c.project_id == _PROJECT, _those(steps.c.id)))
PLANS_BY_ID = Prepared(select(steps.c.id, steps.c.plan).where(steps.c.project_id == _PROJECT, _those(steps.c.id)))
DEPENDENTS = Prepared(
    select(step_needs.c.step_id, step_needs.c.needs_id).where(
        step_needs.c.project_id == _PROJECT, _those(step_needs.c.needs_id)
    )
)
# One order for everybody, and the run before its jobs: no two batches can wait for each other.
RUNS_BY_ID = Prepared(
    select(*_columns(runs, RunRow))
    .where(runs.c.project_id == _PROJECT, _those(runs.c.id))
    .order_by(runs.c.id)
    .with_for_update()
)
FREE_RUNS = Prepared(
    select(runs.c.id)
    .where(runs.c.project_id == _PROJECT, _those(runs.c.id))
    .order_by(runs.c.id)
    .with_for_update(skip_locked=True)
)
UPDATE_JOBS = _guarded_update(jobs, JobRow)
UPDATE_STEPS = _guarded_update(steps, StepRow)
UPDATE_RUNS = _guarded_update(runs, RunRow)
INSERT_EVENTS = Prepared(insert(events), events.c.keys())
INSERT_ATTEMPTS = Prepared(
    insert(attempts), ("project_id", "id", "job_id", "run_id", "number", "runner_id", "state", "assigned_at")
)

ATTEMPT_FACTS = (
    "outcome", "detail", "exit_code", "signal", "oom",
    "accepted_at", "started_at", "exited_at", "ended_at", "log_length", "log_incomplete", "packages",
    "save_warnings",
)  # fmt: skip
"""What events add to an attempt's row; None leaves the column as it is."""


def _added(name: str) -> Any:
    return func.coalesce(bindparam(f"v_{name}", type_=attempts.c[name].type), attempts.c[name])


UPDATE_ATTEMPTS = Prepared(
    update(attempts)
    .where(
        attempts.c.project_id == bindparam("k_project"),
        attempts.c.job_id == bindparam("k_job"),
        attempts.c.number == bindparam("k_number"),
        attempts.c.state != "ended",
    )
    .values(
        state=bindparam("v_state"),
        **{name: _added(name) for name in ATTEMPT_FACTS},
    )
)

UPDATE_LATE = Prepared(
    update(attempts)
    .where(
        attempts.c.project_id == bindparam("k_project"),
        attempts.c.job_id == bindparam("k_job"),
        attempts.c.number == bindparam("k_number"),
    )
    .values(late_event=bindparam("v_event"), late_exit_code=bindparam("v_exit_code"), late_at=bindparam("v_at"))
)
