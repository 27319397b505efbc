"""Tags: pointers (repository, workflow, name) → that workflow's artifacts in a run, with history."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import and_, delete, exists, insert, select

from dstack.domain.ports import Ids
from dstack.server.db.engine import Transaction, declare_write
from dstack.server.db.tables import (
    jobs,
    repositories,
    runs,
    steps,
    submissions,
    tag_history,
    tags,
)
from dstack.server.services.artifacts import newest_of_run
from dstack.server.services.context import Context
from dstack.server.services.errors import BadRequest, Conflict, NotFound
from dstack.server.services.named import no_run
from dstack.server.services.repeated import is_repeated
from dstack.server.services.repositories import RepositoryRef, find_repository
from dstack.server.services.stored import StoredPlan
from dstack.workflows import ReusedInput, UnknownTag

TAG = declare_write("tags.set")
UNTAG = declare_write("tags.delete")
LATEST = "latest"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_name(name: str) -> None:
    """Raise BadRequest unless `name` can be a tag."""
    if not _NAME.fullmatch(name):
        raise BadRequest(
            f"`{name}` cannot be a tag",
            hint="letters, digits, `.`, `_` and `-`, at most 100, beginning with a letter or digit",
        )


def tag(context: Context, run_name: str, name: str, *, force: bool, actor: str | None) -> list[dict[str, Any]]:
    """Point `name` at every workflow of a run; a run that did not end done needs `force` and shows as partial."""
    check_name(name)

    def write(tx: Transaction) -> list[dict[str, Any]]:
        found = tx.execute(
            select(runs.c.id, runs.c.repository_id, runs.c.state)
            .where(runs.c.project_id == context.project_id, runs.c.name == run_name)
            .with_for_update()  # or it could be deleted meanwhile
        ).first()
        if found is None:
            raise no_run(tx, context.project_id, run_name)
        run_id, repository_id, state = found
        if state not in ("done", "failed", "stopped"):
            raise Conflict(
                f"run {run_name} is still {state}",
                hint=f"wait for its end, or submit with `dstack run -t {name}` to tag it when it is done",
            )
        if state != "done" and not force:
            raise Conflict(f"run {run_name} {state}, its artifacts may be partial", hint="add --force to tag it anyway")
        set_tag(tx, context.project_id, context.ids, run_id, name, partial=state != "done", actor=actor)
        if not _is_on(tx, context.project_id, run_id, name):
            raise Conflict(
                f"run {run_name} {state} and saved nothing that `{name}` could stand for",
                hint=f"`dstack explain {run_name}` says what went wrong",
            )
        return listing(tx, context.project_id, repository_id, name)

    return context.database.write(TAG, write)


def set_tag(
    tx: Transaction, project_id: UUID, ids: Ids, run_id: UUID, name: str, *, partial: bool, actor: str | None
) -> None:
    """Point `name` at each workflow of the run, also at those that it reused; a row of history for each.

    Of a run that did not end well, a workflow that saved nothing gets no tag: it would stand for no files.
    """
    repository_id, reused = _reused(tx, project_id, run_id)
    of_run = (steps.c.project_id == project_id, steps.c.run_id == run_id)
    own = set(tx.execute(select(steps.c.workflow).distinct().where(*of_run)).scalars())
    if partial:
        own &= {row["workflow"] for row in newest_of_run(tx, project_id, run_id)}
    sources = {**reused, **dict.fromkeys(own, (run_id, partial))}
    for workflow, (source, is_partial) in sorted(sources.items()):
        key = {"project_id": project_id, "repository_id": repository_id, "workflow": workflow, "name": name}
        tx.execute(delete(tags).where(*[tags.c[column] == value for column, value in key.items()]))
        values = {**key, "run_id": source, "set_by": actor, "set_at": tx.now}
        tx.execute(insert(tags), {**values, "partial": is_partial})
        tx.execute(insert(tag_history), {**values, "id": ids.new(tx.now)})


def _is_on(tx: Transaction, project_id: UUID, run_id: UUID, name: str) -> bool:
    query = select(tags.c.name).where(tags.c.project_id == project_id, tags.c.run_id == run_id, tags.c.name == name)
    return tx.execute(query.limit(1)).first() is not None


def set_asked_tags(tx: Transaction, project_id: UUID, ids: Ids, run_id: UUID) -> None:
    """The tags of `dstack run -t`, now that the run is done."""
    row = tx.execute(
        select(submissions.c.body, runs.c.user)
        .join(runs, (runs.c.project_id == submissions.c.project_id) & (runs.c.id == submissions.c.run_id))
        .where(submissions.c.project_id == project_id, submissions.c.run_id == run_id)
    ).first()
    if row is None:
        return
    for name in dict.fromkeys(msgspec.msgpack.decode(row.body, type=_AskedTags).tags):
        set_tag(tx, project_id, ids, run_id, name, partial=False, actor=row.user)


class _AskedTags(msgspec.Struct, frozen=True):
    """The part of a stored submission that tells of tags."""

    tags: tuple[str, ...] = ()


def _reused(tx: Transaction, project_id: UUID, run_id: UUID) -> tuple[UUID, dict[str, tuple[UUID, bool]]]:
    """The run's repository, and where each workflow that it reused comes from: (run, partial)."""
    of_run = (steps.c.project_id == project_id, steps.c.run_id == run_id)
    inputs = [
        item
        for plan in tx.execute(select(steps.c.plan).where(*of_run)).scalars()
        if plan
        for item in msgspec.msgpack.decode(plan, type=StoredPlan).inputs
    ]
    names = {item.run_name for item in inputs}
    known = select(runs.c.name, runs.c.id).where(runs.c.project_id == project_id, runs.c.name.in_(names))
    ids_of = {row.name: row.id for row in tx.execute(known)} if names else {}
    repository_id = tx.execute(
        select(runs.c.repository_id).where(runs.c.project_id == project_id, runs.c.id == run_id)
    ).scalar_one()
    return repository_id, {
        item.workflow: (ids_of[item.run_name], item.partial) for item in inputs if item.run_name in ids_of
    }


def untag(
    context: Context, name: str, repository_id: UUID | None, workflow: str | None, key: str | None = None
) -> list[dict[str, Any]]:
    """Remove the rows of a tag (or of a run's name: all its tags); returns what was removed.

    `key` marks the request: sent again, because its answer was lost, it removes nothing, and that is no error.
    """

    def write(tx: Transaction) -> list[dict[str, Any]]:
        if is_repeated(tx, context, key):
            return []
        where = [tags.c.project_id == context.project_id, tags.c.name == name]
        if repository_id is not None:
            where.append(tags.c.repository_id == repository_id)
        if workflow is not None:
            where.append(tags.c.workflow == workflow)
        removed = _rows(tx, context.project_id, where)
        if not removed:
            run_id = tx.execute(
                select(runs.c.id).where(runs.c.project_id == context.project_id, runs.c.name == name)
            ).scalar()
            where = [tags.c.project_id == context.project_id, tags.c.run_id == run_id]
            removed = _rows(tx, context.project_id, where) if run_id is not None else []
        if not removed:
            known = sorted({row["name"] for row in listing(tx, context.project_id, repository_id)})
            raise NotFound(f"there is no tag `{name}`", hint=f"tags: {', '.join(known)}" if known else "no tag is set")
        history = [
            {
                "project_id": context.project_id, "id": context.ids.new(tx.now),
                "repository_id": row["repository_id"], "workflow": row["workflow"], "name": row["name"],
                "run_id": None, "set_at": tx.now,
            }
            for row in removed
        ]  # fmt: skip
        tx.execute(insert(tag_history), history)
        tx.execute(delete(tags).where(*where))
        return removed

    return context.database.write(UNTAG, write)


def listing(
    tx: Transaction, project_id: UUID, repository_id: UUID | None = None, name: str | None = None
) -> list[dict[str, Any]]:
    """Tags, newest first."""
    where = [tags.c.project_id == project_id]
    if repository_id is not None:
        where.append(tags.c.repository_id == repository_id)
    if name is not None:
        where.append(tags.c.name == name)
    return _rows(tx, project_id, where)


def _rows(tx: Transaction, project_id: UUID, where: Sequence[Any]) -> list[dict[str, Any]]:
    query = (
        select(
            tags.c.name, tags.c.workflow, runs.c.name.label("run"), repositories.c.name.label("repository"),
            tags.c.set_at.label("at"), tags.c.set_by.label("user"), tags.c.partial, tags.c.repository_id,
        )
        .join(runs, and_(runs.c.project_id == tags.c.project_id, runs.c.id == tags.c.run_id))
        .join(
            repositories,
            and_(repositories.c.project_id == tags.c.project_id, repositories.c.id == tags.c.repository_id),
        )
        .where(*where)
        .order_by(tags.c.set_at.desc(), tags.c.name, tags.c.workflow)
    )  # fmt: skip
    return [dict(row) for row in tx.execute(query).mappings()]


# --- what a plan asks --------------------------------------------------------------------------------------------


def resolve(
    tx: Transaction, project_id: UUID, repository_id: UUID | None, workflow: str | None, name: str
) -> list[ReusedInput]:
    """The artifacts that `workflow:name` (or `:name`) stands for now; raises UnknownTag with the known names."""
    if repository_id is None:
        raise UnknownTag([])
    where = [tags.c.project_id == project_id, tags.c.repository_id == repository_id, tags.c.name == name]
    if workflow is not None:
        where.append(tags.c.workflow == workflow)
    rows = tx.execute(select(tags.c.workflow, tags.c.run_id).where(*where)).all()
    if not rows and name == LATEST and workflow is not None:
        # `latest` not set by hand means the newest run in which that workflow ended done.
        return newest_done(tx, project_id, repository_id, workflow)
    if not rows:
        known = tx.execute(
            select(tags.c.workflow, tags.c.name)
            .where(tags.c.project_id == project_id, tags.c.repository_id == repository_id)
            .order_by(tags.c.set_at.desc())
            .limit(50)
        )
        raise UnknownTag([f"{row[0]}:{row[1]}" for row in known])
    found: list[ReusedInput] = []
    for row in rows:
        warning = _of_age(tx, project_id, repository_id, row.workflow, row.run_id) if name == LATEST else ""
        found.extend(_inputs(tx, project_id, row.run_id, row.workflow, name, warning))
    return found


def _of_age(tx: Transaction, project_id: UUID, repository_id: UUID, workflow: str, run_id: UUID) -> str:
    """What to say where `latest` was set by hand and the workflow has succeeded again since; else nothing."""
    newest_id = _newest_done_run(tx, project_id, repository_id, workflow)
    if newest_id is None or newest_id == run_id:
        return ""
    query = select(runs.c.id, runs.c.name, runs.c.submitted_at).where(
        runs.c.project_id == project_id, runs.c.id.in_([run_id, newest_id])
    )
    by_id = {row.id: row for row in tx.execute(query)}
    tagged, newest = by_id[run_id], by_id[newest_id]
    if (newest.submitted_at, newest.id) <= (tagged.submitted_at, tagged.id):
        return ""
    return (
        f"`{workflow}:{LATEST}` was set by hand to {tagged.name}, which is older than {newest.name}, "
        f"the newest run in which `{workflow}` is done"
    )


def newest_done(tx: Transaction, project_id: UUID, repository_id: UUID | None, workflow: str) -> list[ReusedInput]:
    """The artifacts of the newest run in which `workflow` ended done; raises UnknownTag where there is none."""
    run_id = _newest_done_run(tx, project_id, repository_id, workflow)
    if run_id is None:
        raise UnknownTag([])
    return _inputs(tx, project_id, run_id, workflow, None)


def elsewhere(
    tx: Transaction, project_id: UUID, ref: RepositoryRef, repository: str, workflow: str | None, name: str | None
) -> list[ReusedInput]:
    """The same of `repository` (such as `user/repo`) on the git host of `ref`; without a tag's `name` the newest run
    of `workflow`, or what a tag of that name points at. Raises UnknownTag."""
    host = (ref.remote or "file:").partition("/")[0]
    if host == "file:":
        raise UnknownTag(why="this repository has no remote, so that its git host is not known")
    key = f"{host}/{repository}"
    repository_id = find_repository(tx, project_id, RepositoryRef(key))
    if repository_id is None:
        raise UnknownTag(why=f"no run of {key} is known here")
    if name is not None:
        return resolve(tx, project_id, repository_id, workflow, name)
    try:
        return newest_done(tx, project_id, repository_id, workflow or "")
    except UnknownTag:
        try:
            return resolve(tx, project_id, repository_id, None, workflow or "")
        except UnknownTag:
            raise UnknownTag from None


def _newest_done_run(tx: Transaction, project_id: UUID, repository_id: UUID | None, workflow: str) -> UUID | None:
    """A run that only reused the workflow made nothing new; it counts where the run that made it is gone."""
    query = (
        select(steps.c.run_id)
        .join(runs, and_(runs.c.project_id == steps.c.project_id, runs.c.id == steps.c.run_id))
        .where(
            steps.c.project_id == project_id,
            runs.c.repository_id == repository_id,
            steps.c.workflow == workflow,
            steps.c.state == "done",
        )
        .order_by(runs.c.submitted_at.desc(), runs.c.id.desc())
        .limit(1)
    )
    ran = exists(
        select(jobs.c.id).where(
            jobs.c.project_id == steps.c.project_id, jobs.c.step_id == steps.c.id, jobs.c.reused_from.is_(None)
        )
    )
    found = tx.execute(query.where(ran)).scalar()
    return tx.execute(query).scalar() if found is None else found


def _inputs(
    tx: Transaction,
    project_id: UUID,
    run_id: UUID,
    workflow: str,
    tag_name: str | None,
    warning: str = "",
) -> list[ReusedInput]:
    return [
        ReusedInput(
            path=row["path"],
            manifest_id=row["manifest_id"],
            content_id=row["content_id"],
            run_name=row["run"],
            job_name=row["job"],
            workflow=workflow,
            tag=tag_name,
            partial=row["partial"],
            warning=warning,
        )
        for row in newest_of_run(tx, project_id, run_id)
        if row["workflow"] == workflow
    ]
