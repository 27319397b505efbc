"""Rows of a new run: the run, its steps and their dependencies, the jobs, and the events that tell of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import insert

from dstack.domain.lifecycle import job as job_table
from dstack.domain.lifecycle import step as step_table
from dstack.domain.lifecycle.step import Step, StepState
from dstack.domain.ports import Ids
from dstack.domain.rules import SUCCESS
from dstack.sdk.provider import JobSpec
from dstack.server.db.engine import Transaction
from dstack.server.db.tables import artifacts, events, jobs, run_sources, step_needs, steps
from dstack.server.services.carry import NOTHING, Carried, job_name
from dstack.server.services.catalog import hold_for
from dstack.server.services.context import Context
from dstack.server.services.errors import Conflict
from dstack.server.services.rows import StoredPolicy
from dstack.server.services.stored import StoredInput, StoredPlan, encode_need
from dstack.workflows import PlannedStep, StepPolicy

_DEFAULT = StoredPolicy()
_encode = msgspec.msgpack.Encoder().encode


def insert_plan(
    tx: Transaction,
    project_id: UUID,
    run_id: UUID,
    planned: Sequence[PlannedStep],
    ids: Ids,
    carried: Carried = NOTHING,
) -> int:
    """Store the steps and jobs of a planned run; returns how many events were written (their seq starts at 1).

    `carried` is what its jobs take from an earlier run.
    """
    made = _Rows(tx.now, project_id, run_id, ids, carried)
    for position, step in enumerate(planned):
        made.step(position, step)
    sources = sorted({item.run_name for step in planned for item in step.inputs} | made.taken_from)
    used = [{"project_id": project_id, "run_id": run_id, "source": name} for name in sources]
    for table, rows in (
        (steps, made.steps), (step_needs, made.needs), (jobs, made.jobs), (events, made.events), (run_sources, used),
        (artifacts, made.artifacts),
    ):  # fmt: skip
        if rows:
            tx.execute(insert(table), rows)
    return len(made.events)


def hold_inputs(tx: Transaction, context: Context, planned: Sequence[PlannedStep], carried: Carried) -> None:
    """Have the files of other runs that this one is given stay in the store. Raises Conflict where some went."""
    pins = [(step, item) for step in planned for item in step.inputs]
    gone = hold_for(tx, context, sorted({item.manifest_id for _, item in pins}))
    for step, item in pins:
        if item.manifest_id in gone and not step.skipped and not carried.is_reused(step):
            raise Conflict(
                f"`{item.path}`, an input of `{step.name}`, was saved by run {item.run_name}, and is not in the "
                "store any more",
                hint=f"submit again if {item.run_name} was deleted just now; else make it again: "
                f"dstack run {item.workflow}",
            )


class _Rows:
    def __init__(self, now: int, project_id: UUID, run_id: UUID, ids: Ids, carried: Carried) -> None:
        self._carried = carried
        self._now = now
        self._base = {"project_id": project_id}
        self._of_run = {"project_id": project_id, "run_id": run_id}
        self._ids = ids
        self._by_name: dict[str, UUID] = {}
        self._steps: dict[str, Step] = {}
        self._policies: dict[StepPolicy, bytes | None] = {}
        self._needs_cache: dict[object, str] = {}
        self.steps: list[dict[str, Any]] = []
        self.needs: list[dict[str, Any]] = []
        self.jobs: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.artifacts: list[dict[str, Any]] = []
        self.taken_from: set[str] = {carried.run} if carried.run else set()
        """The runs that something was taken from."""

    def step(self, position: int, planned: PlannedStep) -> None:
        step_id = self._ids.new(self._now)
        self._by_name[planned.name] = step_id
        policy = planned.policy
        made = step_table.created(
            len(planned.jobs),
            [self._steps[name] for name in planned.needs],
            rule=policy.rule,
            fail_fast=policy.fail_fast,
            continue_on_failure=policy.continue_on_failure,
            reused=sum(job_name(planned, spec) in self._carried.reused for spec in planned.jobs),
        )
        self._steps[planned.name] = made
        plan = StoredPlan(
            variables=dict(planned.variables),
            inputs=tuple(msgspec.convert(item, StoredInput, from_attributes=True) for item in planned.inputs),
            needs=planned.needs,
            condition=policy.condition,
            resumed_from=self._carried.run,
            reused=self._taken(planned, reused=True),
            begins=self._taken(planned, reused=False),
        )
        self.steps.append(
            {
                **self._of_run, "id": step_id, "position": position, "name": planned.name,
                "workflow": planned.workflow, "provider": planned.provider, "state": made.state.value,
                "unmet": made.unmet, "open_jobs": made.open_jobs, "plan": _encode(plan), "rule": made.rule,
                "fail_fast": made.fail_fast, "continue_on_failure": made.continue_on_failure,
                "need_failed": made.need_failed, "need_skipped": made.need_skipped,
            }
        )  # fmt: skip
        for name in planned.needs:
            self.needs.append({**self._base, "step_id": step_id, "needs_id": self._by_name[name]})
        first = step_table.first_job(made)
        for spec in planned.jobs:
            self._job(step_id, planned, spec, first)

    def _job(self, step_id: UUID, planned: PlannedStep, spec: JobSpec, first: job_table.Job) -> None:
        job_id = self._ids.new(self._now)
        name = job_name(planned, spec)
        before = self._carried.reused.get(name)
        if before is not None:
            first = job_table.created(unmet=False, reused=True)
        detail = before.origin_run if before else self._why_skipped(planned) if first.reason else None
        self._take(name, job_id, reused=before is not None)
        need = self._needs_cache.get(spec.requirements)
        if need is None:
            need = self._needs_cache[spec.requirements] = encode_need(spec.requirements)
        self.jobs.append(
            {
                **self._of_run, "id": job_id, "step_id": step_id,
                "name": name,
                "workflow": planned.workflow, "provider": planned.provider, "state": first.state.value,
                "need": need, "submitted_at": self._now,
                "queued_at": self._now if first.state is job_table.JobState.QUEUED else None,
                "finished_at": self._now if first.state in job_table.TERMINAL else None,
                "reason": first.reason, "detail": detail, "reused_from": before.origin_id if before else None,
                "spec": before.encoded_spec if before else _encode(spec), "policy": self._policy(planned.policy),
            }
        )  # fmt: skip
        self.events.append(
            {
                **self._of_run, "seq": len(self.events) + 1, "at": self._now, "kind": "job", "object_id": job_id,
                "event": "reused" if before else "created", "after": first.state.value,
            }
        )  # fmt: skip

    def _taken(self, planned: PlannedStep, *, reused: bool) -> tuple[StoredInput, ...]:
        """What the step's jobs that are reused, or the others, have of an earlier run, and of which."""
        carried = self._carried
        names = [job_name(planned, spec) for spec in planned.jobs]
        return tuple(
            StoredInput(
                path=row["path"], manifest_id=row["manifest_id"], content_id=row["content_id"], job_name=name,
                run_name=carried.reused[name].origin_run if reused else carried.run,
                workflow=row["workflow"], partial=bool(row["partial"]),
                instead=row.get("instead", ""),
            )
            for name in names if (name in carried.reused) is reused
            for row in carried.saved.get(name, ())
        )  # fmt: skip

    def _take(self, name: str, job_id: UUID, *, reused: bool) -> None:
        """Rows of its own for what the job has of an earlier run. Attempt 0 is before the first of its own."""
        if reused:
            self.taken_from.add(self._carried.reused[name].origin_run)
        for row in self._carried.saved.get(name, ()):
            self.artifacts.append(
                {
                    **self._of_run, "id": self._ids.new(self._now), "job_id": job_id, "attempt": 0, "stored": 0,
                    **{column: row[column] for column in ("path", "manifest_id", "content_id", "files", "size")},
                    "live": not reused, "partial": not reused, "taken_at": row["at"],
                }
            )  # fmt: skip

    def _policy(self, policy: StepPolicy) -> bytes | None:
        if policy not in self._policies:
            stored = StoredPolicy(
                retry_on=tuple(sorted(reason.value for reason in policy.retry_on)),
                retry_max=policy.retry_max,
                backoff=policy.backoff,
                timeout=policy.timeout,
            )
            self._policies[policy] = None if stored == _DEFAULT else _encode(stored)
        return self._policies[policy]

    def _why_skipped(self, planned: PlannedStep) -> str:
        """What a job that is skipped from the start says: its condition, or the dependency that does not run."""
        if planned.policy.rule != SUCCESS:
            return planned.policy.condition
        return next(name for name in planned.needs if self._steps[name].state is StepState.SKIPPED)
