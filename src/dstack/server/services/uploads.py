"""Runs that are made of a person's own files: finished from the start, with artifacts and tags as any other."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy import insert

from dstack.domain.lifecycle import job as job_table
from dstack.domain.lifecycle import run as run_table
from dstack.domain.lifecycle import step as step_table
from dstack.domain.resources import Requirements
from dstack.protocol.messages import SavedArtifact
from dstack.sdk.provider import JobSpec
from dstack.server.db.engine import Transaction, declare_write
from dstack.server.db.tables import events, jobs, runs, steps, submissions
from dstack.server.services import artifacts, run_names, tags
from dstack.server.services.apply import Batch
from dstack.server.services.catalog import hold_saved, store_of
from dstack.server.services.context import Context
from dstack.server.services.errors import BadRequest, SnapshotMissing
from dstack.server.services.facts import Facts
from dstack.server.services.repositories import RepositoryRef, ensure_repository
from dstack.server.services.stored import StoredPlan, StoredSubmission, encode_need
from dstack.snapshots.errors import MissingChunk
from dstack.workflows.dependencies import WORKFLOW_NAME

UPLOAD = declare_write("runs.upload")
PROVIDER = "upload"
_ID = re.compile(r"[0-9a-f]{64}")
_encode = msgspec.msgpack.Encoder().encode


class UploadedArtifact(msgspec.Struct, frozen=True):
    """A snapshot that is in the store already; `stored` is what it added there, in bytes."""

    path: str
    manifest_id: str
    stored: int = 0


class Upload(msgspec.Struct, frozen=True):
    """The body of `POST …/uploads`. Unknown fields are ignored."""

    artifacts: tuple[UploadedArtifact, ...]
    repository: RepositoryRef
    workflow: str = "upload"
    tags: tuple[str, ...] = ()
    user: str | None = None
    host: str | None = None


class Uploaded(NamedTuple):
    """The run's name, and whether it is new (False: the key was seen before)."""

    name: str
    new: bool


def upload(context: Context, wanted: Upload, key: str | None) -> Uploaded:
    """Make the run. Raises BadRequest and SnapshotMissing, and then nothing is stored."""
    _check(wanted)
    saved = _look(context, wanted)
    for _ in range(100):  # a name that is taken meanwhile costs one more round
        try:
            made = context.database.write(UPLOAD, lambda tx: _store(tx, context, wanted, saved, key))
        except run_names.KeyTaken:
            continue  # the next round finds the run that the other request made
        if made is not None:
            return made
    raise BadRequest("no free run name was found in 100 tries", hint="delete runs that are no longer needed")


def _check(wanted: Upload) -> None:
    if not WORKFLOW_NAME.fullmatch(wanted.workflow):
        raise BadRequest(f"`{wanted.workflow[:100]}` cannot be the name of a workflow")
    if not wanted.artifacts:
        raise BadRequest("there is nothing to upload")
    for name in wanted.tags:
        tags.check_name(name)
    paths = [item.path for item in wanted.artifacts]
    for path in paths:
        if path != str(PurePosixPath(path)) or path.startswith("/") or ".." in path.split("/") or "\0" in path:
            raise BadRequest(
                f"`{path[:200]}` cannot be the path of an artifact", hint="it is relative, as jobs write it"
            )
    if len(set(paths)) < len(paths):
        raise BadRequest("two artifacts have the same path")


def _look(context: Context, wanted: Upload) -> tuple[SavedArtifact, ...]:
    """The artifacts as their snapshots themselves say: a reference never comes before what it points to."""
    store = store_of(context)
    found: list[SavedArtifact] = []
    for item in wanted.artifacts:
        if not _ID.fullmatch(item.manifest_id):
            raise BadRequest(f"`{item.manifest_id[:100]}` is no id of a snapshot")
        manifest_id = bytes.fromhex(item.manifest_id)
        try:
            root = store.root(manifest_id)
        except MissingChunk:
            raise _missing(item.path) from None
        found.append(
            SavedArtifact(
                path=item.path, manifest_id=manifest_id, content_id=root.content_id, files=root.files, size=root.size,
                stored=max(0, item.stored),
            )
        )  # fmt: skip
    return tuple(found)


def _missing(path: str) -> SnapshotMissing:
    return SnapshotMissing(f"the snapshot of `{path}` is not in the store", hint="upload it again")


def _store(
    tx: Transaction, context: Context, wanted: Upload, saved: tuple[SavedArtifact, ...], key: str | None
) -> Uploaded | None:
    """The new run, the one that `key` made before, or None when its name was taken meanwhile."""
    project_id = context.project_id
    seen = run_names.of_key(tx, project_id, key) if key is not None else None
    if seen is not None:
        return Uploaded(seen, False)
    run_id, step_id, job_id = (context.ids.new(tx.now) for _ in range(3))
    name = run_names.free(tx, context)
    if not tx.insert_new(runs, _run_row(tx, context, wanted, run_id, name)):
        return None
    if key is not None:
        run_names.keep_key(tx, project_id, run_id, key)
    of_run = {"project_id": project_id, "run_id": run_id}
    tx.execute(insert(submissions), {**of_run, "body": _encode(StoredSubmission(tags=wanted.tags))})
    step = step_table.created(0)
    tx.execute(
        insert(steps),
        {
            **of_run, "id": step_id, "position": 0, "name": wanted.workflow, "workflow": wanted.workflow,
            "provider": PROVIDER, "state": step.state.value, "rule": step.rule, "plan": _encode(StoredPlan()),
        },
    )  # fmt: skip
    tx.execute(insert(jobs), _job_row(tx, of_run, wanted, saved, step_id, job_id))
    tx.execute(
        insert(events),
        {
            **of_run, "seq": 1, "at": tx.now, "kind": "job", "object_id": job_id, "event": "uploaded",
            "after": job_table.uploaded().state.value, "actor": wanted.user,
        },
    )  # fmt: skip
    lacking = hold_saved(tx, context, [item.manifest_id for item in saved])
    for item in saved:
        if item.manifest_id in lacking:
            raise _missing(item.path)
    artifacts.record(tx, context, (run_id, job_id, 0), saved, at=tx.now, live=False)
    batch = Batch(tx, project_id, context.settings, context.ids)
    batch.load_runs([run_id])
    batch.runs[run_id].seq = 1
    batch.run(run_id, run_table.Planned(), Facts(actor=wanted.user))
    batch.roll_up(run_id)
    batch.store()
    return Uploaded(name, True)


def _run_row(tx: Transaction, context: Context, wanted: Upload, run_id: UUID, name: str) -> dict[str, Any]:
    return {
        "project_id": context.project_id, "id": run_id, "name": name, "workflow": wanted.workflow,
        "repository_id": ensure_repository(tx, context, wanted.repository),
        "state": run_table.RunState.PLANNING.value, "user": wanted.user, "host": wanted.host,
        "submitted_at": tx.now, "started_at": tx.now,
        "branch": wanted.repository.branch, "commit": wanted.repository.commit,
    }  # fmt: skip


def _job_row(
    tx: Transaction,
    of_run: dict[str, Any],
    wanted: Upload,
    saved: tuple[SavedArtifact, ...],
    step_id: UUID,
    job_id: UUID,
) -> dict[str, Any]:
    job = job_table.uploaded()
    return {
        **of_run, "id": job_id, "step_id": step_id, "name": wanted.workflow, "workflow": wanted.workflow,
        "provider": PROVIDER, "state": job.state.value, "reason": job.reason, "need": encode_need(Requirements()),
        "submitted_at": tx.now, "finished_at": tx.now,
        "spec": _encode(JobSpec(artifacts=tuple(item.path for item in saved))),
    }  # fmt: skip
