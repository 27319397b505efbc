"""Jobs as people name them: by their own name, or that of their workflow."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, or_, select

from dstack.server.db.engine import Transaction
from dstack.server.db.tables import jobs
from dstack.server.services.errors import NotFound

_SHOWN = 20


def is_named(name: str) -> ColumnElement[Any]:
    """The condition of jobs that `name` names."""
    return or_(jobs.c.name == name, jobs.c.workflow == name)


def see_job(tx: Transaction, project_id: UUID, run_ids: Collection[UUID], whose: str, name: str) -> None:
    """Raises NotFound where no job of these runs, which `whose` calls "run odd-cat-1" or "tag v1", has that name."""
    of_runs = select(jobs.c.name).where(jobs.c.project_id == project_id, jobs.c.run_id.in_(list(run_ids)))
    if tx.execute(of_runs.where(is_named(name)).limit(1)).first() is not None:
        return
    known = sorted(set(tx.execute(of_runs).scalars()))
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"jobs: {', '.join(known[:_SHOWN])}"
    raise NotFound(f"{whose} has no job `{name}`", hint=hint)
