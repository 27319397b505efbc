"""What sets runs apart: parameters, metrics, code and packages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import select

from dstack.server.db.engine import Transaction
from dstack.server.db.tables import runs, steps
from dstack.server.services import metrics, packages, views
from dstack.server.services.catalog import store_of
from dstack.server.services.context import Context
from dstack.server.services.named import run_id_of
from dstack.server.services.stored import StoredPlan
from dstack.snapshots.listing import entries
from dstack.snapshots.store import SnapshotStore

MOST_FILES = 500
"""Files of a difference that are named."""

Values = dict[tuple[str, str], Any]


@dataclass(frozen=True, slots=True)
class _Compared:
    view: dict[str, Any]
    commit: str | None
    branch: str | None
    code: tuple[bytes, bytes] | None
    """(manifest id, content id)"""
    variables: Values
    inputs: Values
    """(step, path) → (content id, run), of what was reused from earlier runs."""
    packages: Values


def compare(context: Context, names: Sequence[str]) -> dict[str, Any]:
    """What differs between the runs called `names`, a value of each in that order. Raises NotFound.

    `variables`: those that differ, null where a run has none. `inputs`: those of earlier runs that differ, each by the
    run that made it. `metrics`: all, null where a run has none. `code`: where
    each comes from, and by which files it differs from the first run's. `packages`: those that differ, of all the jobs
    of a run together.
    """
    found = context.database.read(lambda tx: [_look(tx, context.project_id, name) for name in names])
    logged = [
        {(item["job"], item["name"]): item for item in metrics.series(context, name, job=None, name=None, points=0)}
        for name in names
    ]
    return {
        "runs": [{**item.view, "commit": item.commit, "branch": item.branch} for item in found],
        "variables": [
            {"step": step, "name": name, "values": values}
            for (step, name), values in _side_by_side([item.variables for item in found])
            if len({str(value) for value in values}) > 1
        ],
        "inputs": [
            {"step": step, "path": path, "values": [value and value[1] for value in values]}
            for (step, path), values in _side_by_side([item.inputs for item in found])
            if len({value and value[0] for value in values}) > 1
        ],
        "metrics": [
            {"job": job, "name": name, "values": [value and _figures(value) for value in values]}
            for (job, name), values in _side_by_side(logged)
        ],
        "code": _code(context, found),
        "packages": [
            {"name": name, "values": values}
            for (_, name), values in sorted(_side_by_side([item.packages for item in found]))
            if len(set(values)) > 1
        ],
    }


def _look(tx: Transaction, project_id: UUID, name: str) -> _Compared:
    run_id = run_id_of(tx, project_id, name)
    view = views.run_view(tx, project_id, name, whole=False)
    assert view is not None
    row = tx.execute(
        select(runs.c.commit, runs.c.branch, runs.c.code_manifest_id, runs.c.code_content_id).where(
            runs.c.project_id == project_id, runs.c.id == run_id
        )
    ).one()
    code = (bytes(row.code_manifest_id), bytes(row.code_content_id)) if row.code_manifest_id else None
    held = packages.versions(packages.of_run(tx, project_id, run_id))
    by_name = {("", name): version for name, version in held.items()}
    plans = _plans(tx, project_id, run_id)
    variables = {(step, name): value for step, plan in plans for name, (value, _) in plan.variables.items()}
    inputs = {(step, item.path): (item.content_id, item.run_name) for step, plan in plans for item in plan.inputs}
    return _Compared(view, row.commit, row.branch, code, variables, inputs, by_name)


def _plans(tx: Transaction, project_id: UUID, run_id: UUID) -> list[tuple[str, StoredPlan]]:
    query = select(steps.c.name, steps.c.plan).where(steps.c.project_id == project_id, steps.c.run_id == run_id)
    return [
        (name, msgspec.msgpack.decode(plan, type=StoredPlan))
        for name, plan in tx.execute(query.order_by(steps.c.position))
        if plan is not None
    ]


def _side_by_side(columns: Sequence[Values]) -> list[tuple[tuple[str, str], list[Any]]]:
    """Every key that some column has, with the value of each column."""
    keys = dict.fromkeys(key for column in columns for key in column)
    return [(key, [column.get(key) for column in columns]) for key in keys]


def _figures(series: dict[str, Any]) -> dict[str, Any]:
    return {name: series[name] for name in ("last", "last_step", "min", "max", "count")}


def _code(context: Context, found: Sequence[_Compared]) -> dict[str, Any]:
    ids = [item.code[1].hex() if item.code else None for item in found]
    store = store_of(context)
    trees = [_tree(store, item.code[0]) if item.code and len(set(ids)) > 1 else {} for item in found]
    return {
        "content_ids": ids,
        "differences": [
            {"run": item.view["name"], "files": _changes(trees[0], tree)[:MOST_FILES]}
            for item, tree in zip(found[1:], trees[1:], strict=True)
        ],
    }


def _tree(store: SnapshotStore, manifest_id: bytes) -> dict[bytes, tuple[Any, ...]]:
    return {
        entry.path: (entry.type, entry.digest, entry.target, entry.mode & 0o111)
        for entry in entries(store, manifest_id)
        if entry.type != "directory"
    }


def _changes(first: dict[bytes, Any], other: dict[bytes, Any]) -> list[dict[str, str]]:
    changes: list[dict[str, str]] = []
    for path in sorted(first.keys() | other.keys()):
        if first.get(path) != other.get(path):
            change = "added" if path not in first else "removed" if path not in other else "changed"
            changes.append({"path": path.decode(errors="backslashreplace"), "change": change})
    return changes
