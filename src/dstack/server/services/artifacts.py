"""Snapshots of jobs' artifact folders, and what is in the code snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import and_, bindparam, func, insert, select, tuple_, update

from dstack.protocol.messages import SavedArtifact
from dstack.server.db.engine import Transaction
from dstack.server.db.tables import artifacts, code_snapshots, jobs, runs, step_needs, tags
from dstack.server.db.transaction import Result
from dstack.server.db.types import Id
from dstack.server.services.catalog import catalog_of, hold_saved, store_of
from dstack.server.services.context import Context
from dstack.server.services.errors import CodeMissing, NotFound
from dstack.server.services.named import run_id_of, see_jobs
from dstack.snapshots.errors import RestoreFailed
from dstack.snapshots.listing import Leaf, walk_tree

NOW: Final = (1 << 62) - 1
"""A time, in microseconds, that nothing is later than."""
ANY_ATTEMPT: Final = (1 << 31) - 1
"""All attempts are before that one."""
_FIRST_ID: Final = UUID(int=0)
_AT_A_TIME: Final = 50
"""Snapshots of one path of a job."""


def has_path(context: Context, manifest_id: bytes, path: str) -> bool:
    """Whether a file or folder stands at `path` of the code snapshot."""
    store = store_of(context)
    try:
        # A file comes only once the path was found: what else lies in a folder need not be read.
        any(isinstance(step, Leaf) for step in walk_tree(store, store.root(manifest_id), [path.encode()]))
    except RestoreFailed:
        return False
    return True


def list_files(context: Context, manifest_id: bytes) -> list[str]:
    """The paths of the code snapshot's files."""
    store = store_of(context)
    steps = walk_tree(store, store.root(manifest_id))
    return [step.path.decode(errors="replace") for step in steps if isinstance(step, Leaf)]


def require_code(context: Context, manifest_id: bytes) -> None:
    """Raise CodeMissing unless the store knows the code snapshot."""
    _require(catalog_of(context).missing([manifest_id]))


def _require(lacking: set[bytes]) -> None:
    if lacking:
        told = min(lacking).hex()
        raise CodeMissing(f"the code snapshot {told} is not in the store", hint="ship it and submit again")


def use_code(tx: Transaction, context: Context, row: dict[str, Any]) -> None:
    """Remember that a run uses the code snapshot `row` (manifest_id, content_id, files, size). Raises CodeMissing."""
    _require(hold_saved(tx, context, [row["manifest_id"]]))
    values = {**row, "project_id": context.project_id, "used_at": tx.now}
    if not tx.insert_new(code_snapshots, values):
        tx.execute(
            update(code_snapshots)
            .where(
                code_snapshots.c.project_id == context.project_id,
                code_snapshots.c.manifest_id == row["manifest_id"],
            )
            .values(used_at=tx.now)
        )


def record(
    tx: Transaction,
    context: Context,
    job: tuple[UUID, UUID, int],
    saved: tuple[SavedArtifact, ...],
    *,
    at: int,
    live: bool,
) -> None:
    """Store references to snapshots that a runner took `at` that time for `job` = (run id, job id, attempt).

    A live one that is stored already is the same message once more.
    """
    run_id, job_id, attempt = job
    at = min(at, tx.now)
    if live:
        known = tx.execute(
            select(artifacts.c.path, artifacts.c.manifest_id).where(
                artifacts.c.project_id == context.project_id, artifacts.c.job_id == job_id,
                artifacts.c.attempt == attempt, artifacts.c.taken_at == at,
            )
        )  # fmt: skip
        seen = {(path, bytes(manifest_id)) for path, manifest_id in known}
        saved = tuple(item for item in saved if (item.path, item.manifest_id) not in seen)
    if saved:
        tx.execute(
            insert(artifacts),
            [
                {
                    "project_id": context.project_id, "id": context.ids.new(tx.now), "run_id": run_id,
                    "job_id": job_id, "attempt": attempt, "path": item.path, "manifest_id": item.manifest_id,
                    "content_id": item.content_id, "files": item.files, "size": item.size, "stored": item.stored,
                    "live": live, "partial": live, "taken_at": at,
                }
                for item in saved
            ],
        )  # fmt: skip


def newest_of_run(tx: Transaction, project_id: UUID, run_id: UUID) -> list[dict[str, Any]]:
    """The newest snapshot of each (job, path) of a run, in order of job and path."""
    return newest_of_runs(tx, project_id, [run_id])


def newest_of_runs(tx: Transaction, project_id: UUID, run_ids: Sequence[UUID]) -> list[dict[str, Any]]:
    """The newest snapshot of each (job, path) of these runs: one statement for a page of a list."""
    return _shown(tx.execute(_OF_RUNS, {"project": project_id, "ids": list(run_ids)}))


def newest_of_jobs(tx: Transaction, project_id: UUID, job_ids: Sequence[UUID]) -> list[dict[str, Any]]:
    """The newest snapshot of each path of these jobs, in order of job and path."""
    return _shown(tx.execute(_OF_JOBS, {"project": project_id, "ids": list(job_ids)}))


def newest_of_needs(tx: Transaction, project_id: UUID, step_id: UUID) -> list[dict[str, Any]]:
    """The newest snapshot of each path of the jobs that a step needs, in order of job and path."""
    return _shown(tx.execute(_OF_NEEDS, {"project": project_id, "step": step_id}))


def newest_of_run_by(tx: Transaction, project_id: UUID, run_id: UUID, at: int) -> list[dict[str, Any]]:
    """What `newest_of_run` gave at that time, of what is still there."""
    return _shown(tx.execute(_OF_RUN_BY, {"project": project_id, "run": run_id, "at": at}))


def newest_of_job_by(tx: Transaction, project_id: UUID, job_id: UUID, at: int) -> list[dict[str, Any]]:
    """The same of a job."""
    return _shown(tx.execute(_OF_JOB_BY, {"project": project_id, "job": job_id, "at": at}))


def holding(
    tx: Transaction, project_id: UUID, job_id: UUID, path: str, *, at: int = NOW, before: int = ANY_ATTEMPT
) -> Iterator[list[dict[str, Any]]]:
    """The snapshots of one path of a job that hold files, the newest first and some at a time, for a training saves
    thousands: those taken by `at`, by attempts before `before`, of which 0 is an earlier run's."""
    of = {"project": project_id, "job": job_id, "path": path, "at": at, "files": 1, "most": _AT_A_TIME}
    last: Mapping[str, Any] = {"attempt": before, "id": _FIRST_ID}
    while found := _shown(tx.execute(_BACK, {**of, "attempt": last["attempt"], "id": last["id"]})):
        last = found[-1]
        yield found


def ends_empty(tx: Transaction, project_id: UUID, job_id: UUID, path: str, before: int) -> bool:
    """Whether the newest of all that attempts before `before` saved there holds no file."""
    of = {"project": project_id, "job": job_id, "path": path, "at": NOW, "files": 0, "most": 1}
    newest = tx.execute(_BACK, {**of, "attempt": before, "id": _FIRST_ID}).first()
    return newest is not None and not newest.files


def named_in_run(tx: Transaction, project_id: UUID, run_id: UUID, digits: str) -> list[dict[str, Any]]:
    """The snapshots of a run whose ids begin with these digits, of each (job, path) the newest first."""
    first, last = (bytes.fromhex(digits.ljust(64, end)) for end in "0f")
    return _shown(tx.execute(_NAMED, {"project": project_id, "run": run_id, "first": first, "last": last}))


def one_before(tx: Transaction, project_id: UUID, run_id: UUID, job: str, item: Mapping[str, Any]) -> bytes | None:
    """The newest snapshot that `job` of a run saved before this one, of the same path, that holds something else."""
    values = {"path": item["path"], "at": item["at"], "content": item["content_id"]}
    found = tx.execute(_ONE_BEFORE, {"project": project_id, "run": run_id, "job": job, **values}).scalar()
    return None if found is None else bytes(found)


def _shown(result: Result) -> list[dict[str, Any]]:
    return [{**row, "partial": row["partial"] or row["live"] or row["state"] != "done"} for row in result.mappings()]


def _select_newest(where: Any) -> Any:
    """Of each (job, path), the last snapshot of its newest attempt that saved any: a training saves thousands."""
    query, ranked = _ranked(where)
    return query.where(ranked.rank == 1).order_by(jobs.c.submitted_at, jobs.c.id, query.selected_columns.path)


_OF = (artifacts.c.job_id, artifacts.c.path)
_NEWEST = (artifacts.c.attempt.desc(), artifacts.c.id.desc())


def _ranked(where: Any) -> tuple[Any, Any]:
    """Snapshots, and columns to choose by: `rank` says how many of the same job and path are not older."""
    rank = func.row_number().over(partition_by=_OF, order_by=_NEWEST).label("rank")
    ranked = select(artifacts, rank).where(artifacts.c.project_id == bindparam("project", type_=Id), where).subquery()
    query = _with_names(ranked.c)
    return query, ranked.c


def _with_names(of: Any, *more: Any) -> Any:
    """Columns of snapshots, and names of what they are of."""
    return (
        select(
            runs.c.name.label("run"), jobs.c.name.label("job"), jobs.c.workflow, jobs.c.id.label("job_id"),
            jobs.c.run_id, of.path, of.manifest_id, of.content_id, of.files, of.size,
            of.live, of.partial, of.taken_at.label("at"), of.attempt, jobs.c.state, *more,
        )
        .join(jobs, and_(jobs.c.project_id == of.project_id, jobs.c.id == of.job_id))
        .join(runs, and_(runs.c.project_id == of.project_id, runs.c.id == of.run_id))
    )  # fmt: skip


def _select_all(where: Any) -> Any:
    query, ranked = _ranked(where)
    return query.order_by(jobs.c.submitted_at, jobs.c.id, query.selected_columns.path, ranked.rank)


_OF_RUNS = _select_newest(artifacts.c.run_id.in_(bindparam("ids", expanding=True)))
_OF_JOBS = _select_newest(artifacts.c.job_id.in_(bindparam("ids", expanding=True)))
_BY = artifacts.c.taken_at <= bindparam("at")
_OF_RUN = artifacts.c.run_id == bindparam("run", type_=Id)
_OF_RUN_BY = _select_newest(and_(_OF_RUN, _BY))
_OF_JOB_BY = _select_newest(and_(artifacts.c.job_id == bindparam("job", type_=Id), _BY))
_BACK = (
    _with_names(artifacts.c, artifacts.c.id)
    .where(
        artifacts.c.project_id == bindparam("project", type_=Id),
        artifacts.c.job_id == bindparam("job", type_=Id),
        artifacts.c.path == bindparam("path"),
        tuple_(artifacts.c.attempt, artifacts.c.id) < tuple_(bindparam("attempt"), bindparam("id", type_=Id)),
        artifacts.c.files >= bindparam("files"),
        _BY,
    )
    .order_by(*_NEWEST)
    .limit(bindparam("most"))
)
_NAMED = _select_all(
    and_(_OF_RUN, artifacts.c.manifest_id >= bindparam("first"), artifacts.c.manifest_id <= bindparam("last"))
)
_JOB_OF_RUN = select(jobs.c.id).where(
    jobs.c.project_id == bindparam("project", type_=Id),
    jobs.c.run_id == bindparam("run", type_=Id),
    jobs.c.name == bindparam("job"),
)
_ONE_BEFORE = (
    select(artifacts.c.manifest_id)
    .where(
        artifacts.c.project_id == bindparam("project", type_=Id),
        artifacts.c.job_id == _JOB_OF_RUN.scalar_subquery(),
        artifacts.c.path == bindparam("path"),
        artifacts.c.taken_at < bindparam("at"),
        artifacts.c.content_id != bindparam("content"),
        artifacts.c.files > 0,
    )
    .order_by(*_NEWEST)
    .limit(1)
)
_NEEDED_STEPS = select(step_needs.c.needs_id).where(
    step_needs.c.project_id == bindparam("project", type_=Id), step_needs.c.step_id == bindparam("step", type_=Id)
)
# Not a join: SQLite would go through all jobs of the project, and look for each whether its step is needed.
_NEEDED_JOBS = select(jobs.c.id).where(
    jobs.c.project_id == bindparam("project", type_=Id), jobs.c.step_id.in_(_NEEDED_STEPS)
)
_OF_NEEDS = _select_newest(artifacts.c.job_id.in_(_NEEDED_JOBS))


def of_run(
    tx: Transaction, project_id: UUID, run: str, *, job: str | None = None, workflow: str | None = None
) -> list[dict[str, Any]]:
    """The newest artifacts of the run called `run`, or of that job or workflow in it; raises NotFound."""
    run_id = run_id_of(tx, project_id, run)
    return _only(tx, project_id, newest_of_run(tx, project_id, run_id), [run_id], f"run {run}", job, workflow)


def of_tag(
    tx: Transaction,
    project_id: UUID,
    tag: str,
    repository_id: UUID | None,
    *,
    job: str | None = None,
    workflow: str | None = None,
) -> list[dict[str, Any]]:
    """The same of every workflow that `tag` points to, in one repository or in all; raises NotFound."""
    found = tagged(tx, project_id, tag, repository_id)
    run_ids = sorted({run_id for run_id, _ in found})
    newest = newest_of_runs(tx, project_id, run_ids)
    theirs = [item for item in newest if (item["run_id"], item["workflow"]) in found]
    return _only(tx, project_id, theirs, run_ids, f"tag {tag}", job, workflow)


def _only(
    tx: Transaction,
    project_id: UUID,
    found: list[dict[str, Any]],
    run_ids: Sequence[UUID],
    whose: str,
    job: str | None,
    workflow: str | None,
) -> list[dict[str, Any]]:
    """Those of a job and a workflow; raises NotFound where there are no such ones."""
    wanted = [item for item in found if job in (None, item["job"]) and workflow in (None, item["workflow"])]
    if not wanted:
        see_jobs(tx, project_id, run_ids, whose, job, workflow)
    return wanted


def tagged(tx: Transaction, project_id: UUID, tag: str, repository_id: UUID | None) -> set[tuple[UUID, str]]:
    """(run, workflow) of all that `tag` points to, in one repository or in all; raises NotFound."""
    where = [tags.c.project_id == project_id, tags.c.name == tag]
    if repository_id is not None:
        where.append(tags.c.repository_id == repository_id)
    found = {(row.run_id, row.workflow) for row in tx.execute(select(tags.c.run_id, tags.c.workflow).where(*where))}
    if not found:
        raise NotFound(f"there is no tag `{tag}` here", hint="`dstack tags list` lists the tags")
    return found
