"""Runners as the API shows them (docs/design/interfaces.md)."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import and_, bindparam, select

from dstack.domain.lifecycle.runner import RunnerState
from dstack.domain.ports import format_id
from dstack.server.db.engine import Transaction
from dstack.server.db.prepared import Prepared
from dstack.server.db.tables import attempts, jobs, runners, runs
from dstack.server.db.types import Id
from dstack.server.services.place import capacity_of

_STATUS_TEXT = {RunnerState.ONLINE: "Online", RunnerState.LOST: "Unreachable", RunnerState.OFFLINE: "Offline"}


def runner_views(tx: Transaction, project_id: UUID, *, everything: bool) -> list[dict[str, Any]]:
    """Runners by name, with the jobs that they hold; `everything`: also those that have left."""
    query = select(runners).where(runners.c.project_id == project_id).order_by(runners.c.name, runners.c.id)
    if not everything:
        query = query.where(runners.c.state != RunnerState.OFFLINE.value)
    held: dict[UUID, list[dict[str, str]]] = {}
    for row in tx.rows(_SELECT_HELD, {"project": project_id}):
        held.setdefault(row.runner_id, []).append({"run": row.run, "name": row.name, "status": row.state})
    return [_view(row, held.get(row.id, [])) for row in tx.execute(query)]


def _view(row: Any, held: list[dict[str, str]]) -> dict[str, Any]:
    state, capacity = RunnerState(row.state), capacity_of(row.capacity)
    draining = row.drain_asked and state is RunnerState.ONLINE
    return {
        "id": format_id("runner", row.id),
        "name": row.name,
        "status": state,
        "status_text": "Draining" if draining else _STATUS_TEXT[state],
        "draining": bool(row.drain_asked),
        "version": row.dstack_version,
        "slots": row.slots,
        "cpu": capacity.cpu,
        "memory": capacity.memory,
        "gpus": [{"name": card.name, "memory": card.memory} for card in capacity.gpus],
        "jobs": held,
        "registered_at": row.registered_at,
        "heartbeat_at": row.heartbeat_at,
        "lost_at": row.lost_at,
    }


_SELECT_HELD = Prepared(
    select(attempts.c.runner_id, jobs.c.name, jobs.c.state, runs.c.name.label("run"))
    .join(jobs, and_(jobs.c.project_id == attempts.c.project_id, jobs.c.id == attempts.c.job_id))
    .join(runs, and_(runs.c.project_id == attempts.c.project_id, runs.c.id == attempts.c.run_id))
    .where(attempts.c.project_id == bindparam("project", type_=Id), attempts.c.state != "ended")
    .order_by(attempts.c.id)
)
