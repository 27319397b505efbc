"""Runs and jobs as people name them; what they may have meant where there is none of that name."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, or_, select

from dstack.server.db.engine import Transaction
from dstack.server.db.tables import jobs, runs
from dstack.server.services.errors import NotFound

_SHOWN = 20


def run_id_of(tx: Transaction, project_id: UUID, name: str) -> UUID:
    """The id of the run called `name`; raises NotFound with the nearest names."""
    found = tx.execute(select(runs.c.id).where(runs.c.project_id == project_id, runs.c.name == name)).scalar()
    if found is None:
        raise no_run(tx, project_id, name)
    return found


def no_run(tx: Transaction, project_id: UUID, name: str) -> NotFound:
    """The refusal, with the nearest of the names that there are."""
    return NotFound(f"there is no run `{name}`", hint=near_names(tx, project_id, name))


def near_names(tx: Transaction, project_id: UUID, name: str) -> str:
    """A hint with the runs whose names are like `name`."""
    recent = tx.execute(
        select(runs.c.name).where(runs.c.project_id == project_id).order_by(runs.c.id.desc()).limit(500)
    ).scalars()
    near = difflib.get_close_matches(name, list(recent), 3)
    return f"did you mean {', '.join(near)}?" if near else "`dstack runs -a` lists all runs"


def is_named(name: str) -> ColumnElement[Any]:
    """The condition of jobs that `name` names."""
    return or_(jobs.c.name == name, jobs.c.workflow == name)


def see_jobs(tx: Transaction, project_id: UUID, run_ids: Collection[UUID], whose: str, *names: str | None) -> None:
    """Raises NotFound where no job of these runs, which `whose` calls "run odd-cat-1" or "tag v1", has one of the names
    that are given."""
    of_runs = select(jobs.c.name).where(jobs.c.project_id == project_id, jobs.c.run_id.in_(list(run_ids)))
    for name in names:
        if name is not None and tx.execute(of_runs.where(is_named(name)).limit(1)).first() is None:
            raise no_job(whose, name, set(tx.execute(of_runs).scalars()))


def no_job(whose: str, name: str, known: Collection[str]) -> NotFound:
    """The refusal, with the nearest of the names that there are."""
    near = difflib.get_close_matches(name, sorted(known), 1)
    hint = f"did you mean {near[0]}?" if near else f"jobs: {', '.join(sorted(known)[:_SHOWN])}"
    return NotFound(f"{whose} has no job `{name}`", hint=hint)
