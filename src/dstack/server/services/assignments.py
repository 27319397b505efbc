"""What a runner is handed for an attempt: the job, its inputs and its environment in final form."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import and_, bindparam, select

from dstack.domain.resuming import Instead
from dstack.protocol.messages import Assignment, EarlierSnapshot, InputRef
from dstack.sdk.provider import JobSpec
from dstack.server.db.engine import Transaction
from dstack.server.db.prepared import Prepared
from dstack.server.db.tables import attempts, jobs, runs, steps, submissions
from dstack.server.db.types import Id
from dstack.server.services import run_values
from dstack.server.services.artifacts import ends_empty, holding, newest_of_needs, one_before
from dstack.server.services.beginnings import lost, newest_whole
from dstack.server.services.context import Context
from dstack.server.services.sealing import SealingError
from dstack.server.services.stored import StoredPlan

_log = logging.getLogger(__name__)
_decode_spec = msgspec.msgpack.Decoder(JobSpec).decode
_decode_plan = msgspec.msgpack.Decoder(StoredPlan).decode


def build(tx: Transaction, context: Context, attempt_ids: Sequence[UUID]) -> tuple[Assignment, ...]:
    """Assignments in the order they were placed."""
    rows = tx.rows(_SELECT, {"project": context.project_id, "ids": attempt_ids})
    submissions = {run_id: _submission(tx, context, run_id) for run_id in {row.run_id for row in rows}}
    return tuple(_assignment(tx, context, row, submissions[row.run_id]) for row in rows)


def _assignment(tx: Transaction, context: Context, row: Any, submission: _Environment) -> Assignment:
    plan = _decode_plan(row.plan)
    spec = _decode_spec(row.spec)
    resumed = _resumed(tx, context, row, plan, spec)
    environment = {
        **submission.environment,
        "PYTHONUNBUFFERED": "1",
        "JOB_ID": row.job_id.hex,
        "RUN_NAME": row.run_name,
        **{variable_name(name): _text(value) for name, (value, _) in plan.variables.items()},
        "DSTACK_RUN_NAME": row.run_name,
        "DSTACK_WORKFLOW": row.workflow,
        "DSTACK_JOB_NAME": row.name,
        "DSTACK_ATTEMPT": str(row.number),
        **({"DSTACK_RESUMED": "1", "DSTACK_RESUMED_FROM": resumed[0].run_name} if resumed else {}),
    }
    return Assignment(
        attempt_id=row.id,
        number=row.number,
        job_id=row.job_id,
        run_name=row.run_name,
        workflow=row.workflow,
        job_name=row.name,
        project=context.settings.project,
        spec=spec,
        code=row.code_manifest_id,
        inputs=inputs_of(tx, context.project_id, row.step_id, plan),
        resumed=resumed,
        environment=environment,
        private=tuple(name for name in submission.private if environment.get(name) == submission.environment.get(name)),
        python=submission.python,
        python_version=submission.python_version,
        mask_set=bool(spec.secrets),
        stop_grace=context.settings.stop_grace,
        save_deadline=context.settings.save_deadline,
        setup_deadline=context.settings.setup_deadline,
    )


_SELECT = Prepared(
    select(
        attempts.c.id, attempts.c.number, attempts.c.job_id, attempts.c.run_id,
        jobs.c.name, jobs.c.workflow, jobs.c.spec, jobs.c.step_id,
        steps.c.plan, runs.c.name.label("run_name"), runs.c.code_manifest_id, runs.c.workflow.label("root"),
        runs.c.resumed_from,
    )
    .join(jobs, and_(jobs.c.project_id == attempts.c.project_id, jobs.c.id == attempts.c.job_id))
    .join(steps, and_(steps.c.project_id == attempts.c.project_id, steps.c.id == jobs.c.step_id))
    .join(runs, and_(runs.c.project_id == attempts.c.project_id, runs.c.id == attempts.c.run_id))
    .where(attempts.c.project_id == bindparam("project", type_=Id), attempts.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(attempts.c.id)
)  # fmt: skip


def variable_name(name: str) -> str:
    """The environment variable of a workflow variable: `batch-size` → `BATCH_SIZE`."""
    return re.sub(r"[^A-Z0-9]", "_", name.upper())


def inputs_of(tx: Transaction, project_id: UUID, step_id: UUID, plan: StoredPlan) -> tuple[InputRef, ...]:
    """Pinned inputs first, then what the steps that it needs have saved in this run."""
    found = [
        InputRef(path=item.path, manifest_id=item.manifest_id, run_name=item.run_name, job_name=item.job_name)
        for item in plan.inputs
    ]
    if plan.needs:
        found.extend(
            InputRef(path=item["path"], manifest_id=item["manifest_id"], run_name=item["run"], job_name=item["job"])
            for item in newest_of_needs(tx, project_id, step_id)
        )
    return tuple(found)


def _resumed(
    tx: Transaction, context: Context, row: Any, plan: StoredPlan, spec: JobSpec
) -> tuple[EarlierSnapshot, ...]:
    """The last snapshot that holds files and is whole, of each artifact folder, of the attempts before this one or of
    the job that it resumes. Where none is whole any more, the last: the set-up names it and fails, as a job is not to
    begin from nothing unasked."""
    if not spec.artifacts or (row.number == 1 and not plan.resumed_from):
        return ()
    found: list[EarlierSnapshot] = []
    for path in sorted(set(spec.artifacts)):
        pages = holding(tx, context.project_id, row.job_id, path, before=row.number)
        newest = newest_whole(pages, lambda page: lost(tx, context, page))
        item = newest.whole or newest.of_all
        if item is None:
            continue
        instead = Instead.LOST if item is not newest.of_all else ""
        if ends_empty(tx, context.project_id, row.job_id, path, row.number):
            instead = Instead.EMPTY
        found.append(_earlier(tx, context, row, plan, item, instead))
    return tuple(found)


def _earlier(
    tx: Transaction, context: Context, row: Any, plan: StoredPlan, item: Mapping[str, Any], instead: str
) -> EarlierSnapshot:
    run_id, run_name = row.run_id, row.run_name
    if not item["attempt"]:
        run_id, run_name = row.resumed_from, plan.resumed_from
        begun = (each.instead for each in plan.begins if (each.job_name, each.path) == (row.name, item["path"]))
        instead = instead or next(begun, "")
    return EarlierSnapshot(
        path=item["path"],
        manifest_id=item["manifest_id"],
        run_name=run_name,
        attempt=item["attempt"],
        files=item["files"],
        size=item["size"],
        taken_at=item["at"],
        instead=instead,
        older=None if run_id is None else one_before(tx, context.project_id, run_id, row.name, item),
    )


class _Environment(msgspec.Struct, frozen=True):
    """The part of a stored submission that attempts need (its YAML texts can be megabytes)."""

    environment: dict[str, str] = {}
    private: tuple[str, ...] = ()
    python: str | None = None
    python_version: str | None = None


def _submission(tx: Transaction, context: Context, run_id: UUID) -> _Environment:
    cached = _seen.get(run_id)
    if cached is None:
        of_run = (submissions.c.project_id == context.project_id, submissions.c.run_id == run_id)
        query = select(submissions.c.body).where(*of_run)
        cached = msgspec.msgpack.decode(tx.execute(query).scalar_one(), type=_Environment)
        if cached.private:
            cached = _with_private(tx, context, run_id, cached)
        while len(_seen) >= _KEEP:
            _seen.pop(next(iter(_seen)), None)
        _seen[run_id] = cached
    return cached


def _with_private(tx: Transaction, context: Context, run_id: UUID, stored: _Environment) -> _Environment:
    """With the variables that hold credentials; without those that cannot be opened, which need not matter."""
    try:
        opened = run_values.of_shell(tx, context, run_id)
    except SealingError as error:
        _log.warning("run %s goes on without %s of its shell: %s", run_id, ", ".join(stored.private), error.message)
        return stored
    return msgspec.structs.replace(stored, environment={**stored.environment, **opened})


_KEEP = 64
_seen: dict[UUID, _Environment] = {}
"""Submissions of recent runs: a run of 10,000 jobs is not decoded 10,000 times. They never change."""


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
