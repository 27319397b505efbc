"""Names alone, for whoever completes them while a person types."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import select

from dstack.server.db.engine import Transaction
from dstack.server.db.tables import runs, tags
from dstack.server.services.repositories import RepositoryRef, find_repository

NEWEST = 100


def names(tx: Transaction, project_id: UUID, repository: RepositoryRef | None) -> dict[str, Any]:
    """The newest runs and all tags, of one repository or of all; of one that was never seen, nothing."""
    of_runs, of_tags = [runs.c.project_id == project_id], [tags.c.project_id == project_id]
    if repository is not None:
        repository_id = find_repository(tx, project_id, repository)
        of_runs.append(runs.c.repository_id == repository_id)
        of_tags.append(tags.c.repository_id == repository_id)
    newest = select(runs.c.name, runs.c.workflow, runs.c.state).where(*of_runs).order_by(runs.c.id.desc()).limit(NEWEST)
    tagged = select(tags.c.name).distinct().where(*of_tags).order_by(tags.c.name)
    return {
        "runs": [{"name": row.name, "workflow": row.workflow, "status": row.state} for row in tx.execute(newest)],
        "tags": list(tx.execute(tagged).scalars()),
    }
