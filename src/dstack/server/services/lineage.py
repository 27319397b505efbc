"""What a run's inputs came from, and which runs used its artifacts: a walk over runs in both directions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

import msgspec
from sqlalchemy import select

from dstack.server.db.engine import Transaction
from dstack.server.db.tables import run_sources, runs, steps
from dstack.server.services.artifacts import tagged
from dstack.server.services.named import run_id_of
from dstack.server.services.stored import StoredPlan

MOST = 1000
"""Runs that are looked at in each direction."""
DELETED = "deleted"
_PART = 500

Only = Mapping[str, set[str]]
"""Run → the workflows of it that count; all of them where it has no entry."""


@dataclass(slots=True)
class Lineage:
    """`links` are as the API tells them, nearest first; `cut` says that there is more."""

    roots: list[str]
    links: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    cut: bool = False


def of_run(tx: Transaction, project_id: UUID, name: str) -> Lineage:
    """Raises NotFound."""
    run_id_of(tx, project_id, name)
    return _walk(tx, project_id, [name], {})


def of_tag(tx: Transaction, project_id: UUID, tag: str, repository_id: UUID | None) -> Lineage:
    """Of the workflows that `tag` points to; raises NotFound."""
    pairs = tagged(tx, project_id, tag, repository_id)
    ids = {run_id for run_id, _ in pairs}
    query = select(runs.c.id, runs.c.name).where(runs.c.project_id == project_id, runs.c.id.in_(ids))
    names = {row.id: row.name for row in tx.execute(query)}
    only: dict[str, set[str]] = {}
    for run_id, workflow in pairs:
        only.setdefault(names[run_id], set()).add(workflow)
    return _walk(tx, project_id, sorted(only), only)


def _walk(tx: Transaction, project_id: UUID, roots: list[str], only: Only) -> Lineage:
    found = Lineage(roots)
    _follow(tx, project_id, found, "input", only)
    _follow(tx, project_id, found, "use", only)
    states = _states(tx, project_id, {link[side] for link in found.links for side in ("run", "source")})
    for link in found.links:
        link["status"] = states.get(link["run"], DELETED)
        link["source_status"] = states.get(link["source"], DELETED)
    return found


def _follow(tx: Transaction, project_id: UUID, found: Lineage, direction: Literal["input", "use"], only: Only) -> None:
    """Add the links of one direction, level by level; a run is looked at once."""
    seen = set(found.roots)
    level, depth = list(found.roots), 1
    while level:
        links = _inputs(tx, project_id, level) if direction == "input" else _uses(tx, project_id, level)
        following: list[str] = []
        for link in links:
            near, workflow = (link["run"], link["of"]) if direction == "input" else (link["source"], link["workflow"])
            if depth == 1 and workflow not in only.get(near, {workflow}):
                continue
            found.links.append({key: value for key, value in link.items() if key != "of"})
            found.links[-1].update(direction=direction, depth=depth)
            far = link["source"] if direction == "input" else link["run"]
            if far not in seen:
                seen.add(far)
                following.append(far)
        if len(seen) > MOST:
            found.cut = found.cut or bool(following)
            return
        level, depth = following, depth + 1


def _inputs(tx: Transaction, project_id: UUID, names: Sequence[str]) -> Iterable[dict[str, Any]]:
    """What the runs of these names were given."""
    for part in (names[start : start + _PART] for start in range(0, len(names), _PART)):
        yield from _links(tx, project_id, runs.c.name.in_(part))


def _uses(tx: Transaction, project_id: UUID, names: Sequence[str]) -> Iterable[dict[str, Any]]:
    """What other runs were given of the runs of these names."""
    for part in (names[start : start + _PART] for start in range(0, len(names), _PART)):
        users = select(run_sources.c.run_id).where(
            run_sources.c.project_id == project_id, run_sources.c.source.in_(part)
        )
        wanted = set(part)
        yield from (link for link in _links(tx, project_id, runs.c.id.in_(users)) if link["source"] in wanted)


def _links(tx: Transaction, project_id: UUID, which: Any) -> Iterable[dict[str, Any]]:
    query = (
        select(runs.c.name, steps.c.name, steps.c.workflow, steps.c.plan)
        .join(steps, (steps.c.project_id == runs.c.project_id) & (steps.c.run_id == runs.c.id))
        .where(runs.c.project_id == project_id, steps.c.plan.is_not(None), which)
        .order_by(runs.c.id, steps.c.position)
    )
    for run, step, workflow, plan in tx.execute(query):
        stored = msgspec.msgpack.decode(plan, type=StoredPlan)
        taken = (("input", stored.inputs), ("reused", stored.reused), ("begins", stored.begins))
        for how, item in ((how, item) for how, items in taken for item in items):
            yield {
                "how": how, "run": run, "step": step, "of": workflow, "source": item.run_name, "job": item.job_name,
                "workflow": item.workflow, "path": item.path, "tag": item.tag, "partial": item.partial,
                "manifest_id": item.manifest_id.hex(), "content_id": item.content_id.hex(),
                "instead": item.instead or None,
            }  # fmt: skip


def _states(tx: Transaction, project_id: UUID, names: Iterable[str]) -> dict[str, str]:
    wanted = sorted(names)
    found: dict[str, str] = {}
    for part in (wanted[start : start + _PART] for start in range(0, len(wanted), _PART)):
        query = select(runs.c.name, runs.c.state).where(runs.c.project_id == project_id, runs.c.name.in_(part))
        found.update((name, state) for name, state in tx.execute(query))
    return found
