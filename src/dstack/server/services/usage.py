"""What takes space: packs, logs and the database as a whole, and how much of it which runs brought."""

from __future__ import annotations

import os
from typing import Any
from uuid import UUID

from sqlalchemy import and_, func, select, union_all
from sqlalchemy.sql.expression import literal

from dstack.server.db.engine import Transaction
from dstack.server.db.tables import artifacts, attempts, code_snapshots, packs, repositories, runs, tags
from dstack.server.services.context import Context
from dstack.server.services.heal import ASIDE


def usage(context: Context, limit: int) -> dict[str, Any]:
    """Bytes by kind, and the `limit` runs that brought the most."""
    found = context.database.read(lambda tx: _read(tx, context.project_id, limit))
    where = context.database.where
    database = sum(_size(f"{where}{suffix}") for suffix in ("", "-wal", "-shm")) if os.path.isabs(where) else None
    aside = sum(info.size for info in context.blobs.list(ASIDE))
    return {**found, "quarantine": aside, "database": database}


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _read(tx: Transaction, project_id: UUID, limit: int) -> dict[str, Any]:
    stored = tx.execute(select(func.coalesce(func.sum(packs.c.size), 0)).where(packs.c.project_id == project_id))
    logs = tx.execute(
        select(func.coalesce(func.sum(attempts.c.log_length), 0)).where(attempts.c.project_id == project_id)
    )
    code = tx.execute(
        select(func.coalesce(func.sum(code_snapshots.c.size), 0)).where(code_snapshots.c.project_id == project_id)
    )
    return {
        "store": int(stored.scalar_one()),
        "logs": int(logs.scalar_one()),
        "code": int(code.scalar_one()),
        "runs": _largest(tx, project_id, limit),
    }


def _largest(tx: Transaction, project_id: UUID, limit: int) -> list[dict[str, Any]]:
    """By run: what its snapshots added to the store when they were saved, and its logs."""
    saved = select(
        artifacts.c.run_id, artifacts.c.stored.label("stored"), literal(0).label("logged")
    ).where(artifacts.c.project_id == project_id)  # fmt: skip
    logged = select(
        attempts.c.run_id, literal(0).label("stored"), attempts.c.log_length.label("logged")
    ).where(attempts.c.project_id == project_id)  # fmt: skip
    parts = union_all(saved, logged).subquery()
    stored, written = func.sum(parts.c.stored), func.sum(parts.c.logged)
    sums = (
        select(parts.c.run_id, stored.label("stored"), written.label("logs"))
        .group_by(parts.c.run_id)
        .order_by((stored + written).desc(), parts.c.run_id.desc())
        .limit(limit)
        .subquery()
    )
    query = (
        select(
            runs.c.id, runs.c.name, runs.c.workflow, runs.c.state.label("status"), runs.c.submitted_at,
            repositories.c.name.label("repository_name"), sums.c.stored, sums.c.logs,
        )
        .join(sums, sums.c.run_id == runs.c.id)
        .outerjoin(
            repositories,
            and_(repositories.c.project_id == runs.c.project_id, repositories.c.id == runs.c.repository_id),
        )
        .where(runs.c.project_id == project_id)
        .order_by((sums.c.stored + sums.c.logs).desc(), runs.c.id.desc())
    )  # fmt: skip
    found = [dict(row) for row in tx.execute(query).mappings()]
    names: dict[UUID, set[str]] = {}
    ids = [row["id"] for row in found]
    of_runs = select(tags.c.run_id, tags.c.name).where(tags.c.project_id == project_id, tags.c.run_id.in_(ids))
    for run_id, name in tx.execute(of_runs):
        names.setdefault(run_id, set()).add(name)
    return [
        {
            **{key: value for key, value in row.items() if key != "id"},
            "stored": int(row["stored"]),
            "logs": int(row["logs"]),
            "tags": sorted(names.get(row["id"], ())),
        }
        for row in found
    ]
