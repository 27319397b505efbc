"""Deleting runs: their rows, tags and logs go, their names stay retired, and what only they stored is garbage.

The bytes of artifacts are shared by content, so they are not removed here: whoever collects garbage finds them
without a reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import delete as delete_rows
from sqlalchemy import insert, select

from dstack.domain.lifecycle.run import TERMINAL
from dstack.server.db.engine import Transaction, declare_write
from dstack.server.db.tables import (
    attempts,
    idempotency_keys,
    jobs,
    log_segments,
    log_streams,
    retired_run_names,
    runs,
    steps,
    tag_history,
    tags,
)
from dstack.server.services.context import Context
from dstack.server.services.errors import BadRequest
from dstack.server.services.named import near_names
from dstack.server.services.stored import StoredPlan

DELETE = declare_write("runs.delete")
MOST = 500
"""Runs of one call."""
_PART = 500
"""Values of one statement."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A run that was left alone: why, and what to do."""

    run: str
    why: str
    hint: str


@dataclass(frozen=True, slots=True)
class Deleted:
    """What became of each run; `streams` are the logs that nothing refers to any more."""

    deleted: list[str]
    refused: list[Refused]
    streams: list[UUID]


def delete(context: Context, names: Sequence[str], *, force: bool, actor: str | None) -> Deleted:
    """Delete those of the runs that may be: finished, not used by an unfinished run, and without a tag unless `force`.

    With `force` the tags go too. Raises BadRequest for more than `MOST` names.
    """
    if len(names) > MOST:
        raise BadRequest(f"{len(names)} runs in one request", hint=f"at most {MOST}")
    return context.database.write(DELETE, lambda tx: _delete(tx, context, list(dict.fromkeys(names)), force, actor))


def _delete(tx: Transaction, context: Context, names: list[str], force: bool, actor: str | None) -> Deleted:
    project_id = context.project_id
    found = {
        row.name: row
        for row in tx.execute(
            select(runs.c.id, runs.c.name, runs.c.state)
            .where(runs.c.project_id == project_id, runs.c.name.in_(names))
            .order_by(runs.c.id)
            .with_for_update()
        )
    }
    tags_of = _tags(tx, project_id, [row.id for row in found.values()])
    users = _users(tx, project_id, found)
    doomed: list[Any] = []
    refused: list[Refused] = []
    for name in names:
        row = found.get(name)
        refusal = (
            Refused(name, f"there is no run `{name}`", near_names(tx, project_id, name))
            if row is None
            else _refusal(row, [] if force else tags_of.get(row.id, []), users.get(name))
        )
        if refusal is not None:
            refused.append(refusal)
        else:
            doomed.append(row)
    streams = _remove(tx, context, doomed, actor) if doomed else []
    return Deleted([row.name for row in doomed], refused, streams)


def _refusal(row: Any, tag_names: Sequence[str], user: str | None) -> Refused | None:
    if row.state not in TERMINAL:
        return Refused(row.name, f"{row.name} is not finished ({row.state})", f"stop it first: dstack stop {row.name}")
    if user is not None:
        return Refused(row.name, f"{user}, which is not finished, uses artifacts of {row.name}", f"wait for {user}")
    if tag_names:
        told = ", ".join(f"`{name}`" for name in sorted(set(tag_names)))
        return Refused(row.name, f"{row.name} is tagged {told}", "add --force to delete it with its tags")
    return None


def _tags(tx: Transaction, project_id: UUID, ids: Sequence[UUID]) -> dict[UUID, list[str]]:
    found: dict[UUID, list[str]] = {}
    query = select(tags.c.run_id, tags.c.name).where(tags.c.project_id == project_id, tags.c.run_id.in_(ids))
    for run_id, name in tx.execute(query):
        found.setdefault(run_id, []).append(name)
    return found


def _users(tx: Transaction, project_id: UUID, names: Mapping[str, object]) -> dict[str, str]:
    """Of these runs, those whose artifacts an unfinished run was planned with → that run."""
    query = (
        select(runs.c.name, steps.c.plan)
        .join(runs, (runs.c.project_id == steps.c.project_id) & (runs.c.id == steps.c.run_id))
        .where(steps.c.project_id == project_id, runs.c.state.not_in([state.value for state in TERMINAL]))
    )
    return {
        item.run_name: name
        for name, plan in tx.execute(query)
        if plan
        for item in msgspec.msgpack.decode(plan, type=StoredPlan).inputs
        if item.run_name in names
    }


def _remove(tx: Transaction, context: Context, doomed: Sequence[Any], actor: str | None) -> list[UUID]:
    """Remove the rows; the streams of their attempts."""
    project_id = context.project_id
    ids = [row.id for row in doomed]
    # Attempts are found by their jobs: those have an index by run.
    job_ids = select(jobs.c.id).where(jobs.c.project_id == project_id, jobs.c.run_id.in_(ids))
    of_jobs = select(attempts.c.id).where(attempts.c.project_id == project_id, attempts.c.job_id.in_(job_ids))
    streams = list(tx.execute(of_jobs).scalars())
    tx.execute(
        insert(retired_run_names), [{"project_id": project_id, "name": row.name, "at": tx.now} for row in doomed]
    )
    _untag(tx, context, ids, actor)
    for part in (streams[start : start + _PART] for start in range(0, len(streams), _PART)):
        tx.execute(
            delete_rows(log_segments).where(log_segments.c.project_id == project_id, log_segments.c.stream_id.in_(part))
        )
        tx.execute(delete_rows(log_streams).where(log_streams.c.project_id == project_id, log_streams.c.id.in_(part)))
    tx.execute(
        delete_rows(idempotency_keys).where(
            idempotency_keys.c.project_id == project_id, idempotency_keys.c.object_id.in_(ids)
        )
    )
    # Everything else that belongs to a run hangs on its row.
    tx.execute(delete_rows(runs).where(runs.c.project_id == project_id, runs.c.id.in_(ids)))
    return streams


def _untag(tx: Transaction, context: Context, ids: Sequence[UUID], actor: str | None) -> None:
    of_runs = (tags.c.project_id == context.project_id, tags.c.run_id.in_(ids))
    removed = tx.execute(select(tags.c.repository_id, tags.c.workflow, tags.c.name).where(*of_runs)).all()
    if not removed:
        return
    history = [
        {
            "project_id": context.project_id, "id": context.ids.new(tx.now), "repository_id": row.repository_id,
            "workflow": row.workflow, "name": row.name, "run_id": None, "set_by": actor, "set_at": tx.now,
        }
        for row in removed
    ]  # fmt: skip
    tx.execute(insert(tag_history), history)
    tx.execute(delete_rows(tags).where(*of_runs))
