"""Every snapshot that a run's jobs have saved, not only the newest of each artifact."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from uuid import UUID

from sqlalchemy import and_, or_, select

from dstack.server.db.engine import Transaction
from dstack.server.db.tables import artifacts, jobs, runs
from dstack.server.services.artifacts import tagged
from dstack.server.services.named import run_id_of, see_jobs

Page = tuple[list[dict[str, Any]], UUID | None]
MOST = 500
"""Snapshots of one page: a long training saves thousands."""


def of_run(
    tx: Transaction,
    project_id: UUID,
    run: str,
    *,
    job: str | None = None,
    workflow: str | None = None,
    cursor: UUID | None = None,
) -> Page:
    """A page of the run's snapshots, newest first, and where the next one begins; raises NotFound."""
    run_id = run_id_of(tx, project_id, run)
    page = _page(tx, project_id, [artifacts.c.run_id == run_id], job, workflow, cursor)
    if not page[0]:  # of jobs that have saved nothing, not of some that were never there
        see_jobs(tx, project_id, [run_id], f"run {run}", job, workflow)
    return page


def of_tag(
    tx: Transaction,
    project_id: UUID,
    tag: str,
    repository_id: UUID | None,
    *,
    job: str | None = None,
    workflow: str | None = None,
    cursor: UUID | None = None,
) -> Page:
    """The same of every workflow that `tag` points to; raises NotFound."""
    pairs = tagged(tx, project_id, tag, repository_id)
    where = [or_(*(and_(artifacts.c.run_id == run_id, jobs.c.workflow == name) for run_id, name in sorted(pairs)))]
    page = _page(tx, project_id, where, job, workflow, cursor)
    if not page[0]:
        see_jobs(tx, project_id, [run_id for run_id, _ in pairs], f"tag {tag}", job, workflow)
    return page


def _page(
    tx: Transaction,
    project_id: UUID,
    where: Collection[Any],
    job: str | None,
    workflow: str | None,
    cursor: UUID | None,
) -> Page:
    wanted = [artifacts.c.project_id == project_id, *where]
    if job is not None:
        wanted.append(jobs.c.name == job)
    if workflow is not None:
        wanted.append(jobs.c.workflow == workflow)
    if cursor is not None:
        wanted.append(artifacts.c.id < cursor)
    query = (
        select(
            artifacts.c.id, runs.c.name.label("run"), jobs.c.name.label("job"), jobs.c.workflow, jobs.c.state,
            artifacts.c.attempt, artifacts.c.path, artifacts.c.manifest_id, artifacts.c.content_id,
            artifacts.c.files, artifacts.c.size, artifacts.c.stored, artifacts.c.live, artifacts.c.partial,
            artifacts.c.taken_at.label("at"),
        )
        .join(jobs, and_(jobs.c.project_id == artifacts.c.project_id, jobs.c.id == artifacts.c.job_id))
        .join(runs, and_(runs.c.project_id == artifacts.c.project_id, runs.c.id == artifacts.c.run_id))
        .where(*wanted)
        .order_by(artifacts.c.id.desc())
        .limit(MOST + 1)
    )  # fmt: skip
    found = [dict(row) for row in tx.execute(query).mappings()]
    for row in found:
        row["partial"] = row["partial"] or row["live"] or row["state"] != "done"
    return found[:MOST], found[MOST - 1]["id"] if len(found) > MOST else None
