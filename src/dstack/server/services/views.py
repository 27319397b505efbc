"""Runs and jobs as the API shows them (docs/design/interfaces.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Integer, and_, bindparam, func, select, union_all

from dstack.domain.lifecycle.job import TERMINAL as JOB_TERMINAL
from dstack.domain.lifecycle.run import TERMINAL as RUN_TERMINAL
from dstack.domain.lifecycle.run import RunState
from dstack.domain.ports import format_id
from dstack.domain.reasons import Reason, cli_exit, sentence
from dstack.server.db.engine import Transaction
from dstack.server.db.tables import attempts, jobs, repositories, runners, runs, steps, tags
from dstack.server.db.types import Id
from dstack.server.services import artifacts
from dstack.server.services.stored import StoredPlan, decode_warnings

DELETED = "deleted"
"""In place of the name of a run that is gone; no run is called so."""
OPEN_RUNS = tuple(state.value for state in RunState if state not in RUN_TERMINAL)

_STATUS_TEXT = {
    "planning": "Planning...",
    "waiting": "Waiting...",
    "queued": "Queued...",
    "assigned": "Queued...",
    "starting": "Starting...",
    "running": "Running...",
    "saving": "Saving...",
    "done": "Done",
    "failed": "Failed",
    "stopped": "Stopped",
    "skipped": "Skipped",
}

Page = tuple[list[dict[str, Any]], str | None]

LISTED_JOBS = 200
"""A run with more jobs is listed with only some of them, beside the counts of all."""
PART = 20
"""How many: the first by name, and the root cause."""
EXPLAINED = 10
"""Runs of a page of which it is told why they wait."""
Why = Callable[[UUID], str | None]


def run_page(
    tx: Transaction,
    project_id: UUID,
    *,
    repository_id: UUID | None,
    active: bool,
    limit: int,
    cursor: UUID | None,
    why: Why | None = None,
) -> Page:
    """Runs newest first, and the cursor of the next page; `why` tells why a run waits."""
    where = [runs.c.project_id == project_id]
    if repository_id is not None:
        where.append(runs.c.repository_id == repository_id)
    if active:
        where.append(runs.c.state.in_(OPEN_RUNS))
    if cursor is not None:
        where.append(runs.c.id < cursor)
    found = tx.execute(_select_runs().where(*where).order_by(runs.c.id.desc()).limit(limit + 1)).mappings().all()
    shown = found[:limit]
    more = shown[-1]["id"].hex if len(found) > limit else None
    views = _runs(tx, project_id, shown, whole=False)
    if why is not None:
        waiting = [(row["id"], view) for row, view in zip(shown, views, strict=True) if _waits(view)]
        for run_id, view in waiting[:EXPLAINED]:
            view["why_waiting"] = why(run_id)
    return views, more


def run_view(
    tx: Transaction,
    project_id: UUID,
    name: str,
    whys: Callable[[UUID], Mapping[UUID, str]] | None = None,
    *,
    whole: bool = True,
) -> dict[str, Any] | None:
    """One run with its jobs (unless `whole`, as in a list), None where there is none; `whys` tells why jobs wait."""
    found = tx.execute(_select_runs().where(runs.c.project_id == project_id, runs.c.name == name)).mappings().all()
    if not found:
        return None
    (view,) = _runs(tx, project_id, found, whole=whole)
    if whys is not None and view["status"] not in RUN_TERMINAL:
        texts = {format_id("job", job_id): text for job_id, text in whys(found[0]["id"]).items()}
        for job in view["jobs"]:
            job["why_waiting"] = texts.get(job["id"])
        if _waits(view):
            # Of a job that waits for others, those others say more.
            able = (job for job in view["jobs"] if job["status"] in ("queued", "assigned") and job["why_waiting"])
            view["why_waiting"] = next((job["why_waiting"] for job in able), None)
    return view


def job_rows(
    tx: Transaction, project_id: UUID, run_ids: Iterable[UUID], job_ids: Sequence[UUID] | None = None
) -> list[Any]:
    """Rows of jobs with their runner's name and the current attempt's log facts, in plan order.

    `job_ids`, where given, are such jobs' ids.
    """
    where = [jobs.c.project_id == project_id]
    # Not both: with the runs at hand, SQLite reads all of their jobs to find those few.
    where.append(jobs.c.run_id.in_(list(run_ids)) if job_ids is None else jobs.c.id.in_(job_ids))
    query = (
        select(
            *[
                jobs.c[name]
                for name in (
                    "id", "run_id", "step_id", "name", "workflow", "provider", "state", "intent", "intent_by",
                    "attempt", "counted", "outcome", "reason", "detail", "exit_code",
                    "submitted_at", "started_at", "finished_at", "reused_from", "artifacts_incomplete",
                )
            ],
            runners.c.name.label("runner"), runners.c.state.label("runner_state"), runners.c.lost_at,
            attempts.c.id.label("attempt_id"), attempts.c.log_length, attempts.c.log_incomplete, attempts.c.packages,
            attempts.c.save_warnings,
        )
        .outerjoin(
            attempts,
            and_(
                attempts.c.project_id == jobs.c.project_id,
                attempts.c.job_id == jobs.c.id,
                attempts.c.number == jobs.c.attempt,
            ),
        )
        .outerjoin(
            runners, and_(runners.c.project_id == jobs.c.project_id, runners.c.id == attempts.c.runner_id)
        )
        .where(*where)
        .order_by(jobs.c.submitted_at, jobs.c.id)
    )  # fmt: skip
    return list(tx.execute(query).mappings())


def job_view(row: Any, saved: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    reason = Reason(row["reason"]) if row["reason"] else None
    text = None
    if reason is not None:
        text = sentence(reason, exit_code=row["exit_code"], actor=row["intent_by"], detail=row["detail"])
        if row["artifacts_incomplete"]:
            text += " (artifacts incomplete)"
    unreachable = row["runner_state"] == "lost" and row["state"] not in JOB_TERMINAL
    return {
        "id": format_id("job", row["id"]),
        "name": row["name"],
        "step": row["name"],
        "workflow": row["workflow"],
        "provider": row["provider"],
        "status": row["state"],
        "status_text": "Unreachable" if unreachable else _job_text(row),
        "unreachable_since": row["lost_at"] if unreachable else None,
        "stopping": bool(row["intent"]) and row["state"] not in JOB_TERMINAL,
        "reason": reason,
        "reason_text": text,
        "exit_code": row["exit_code"],
        "attempt": row["attempt"],
        "attempts": row["attempt"],
        "runner": row["runner"],
        "submitted_at": row["submitted_at"],
        "started_at": row["started_at"],
        "finished_at": row["finished_at"],
        "reused_from": format_id("job", row["reused_from"]) if row["reused_from"] else None,
        "reused_run": row["detail"] if row["reused_from"] else None,
        "log_length": row["log_length"] or 0,
        "log_incomplete": bool(row["log_incomplete"]),
        "save_warnings": decode_warnings(row["save_warnings"]),
        "packages_digest": row["packages"].hex() if row["packages"] is not None else None,
        "why_waiting": None,
        "artifacts": [artifact_view(item) for item in saved],
    }


def artifact_view(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "run": row["run"],
        "job": row["job"],
        "workflow": row["workflow"],
        "path": row["path"],
        "manifest_id": row["manifest_id"].hex(),
        "content_id": row["content_id"].hex(),
        "files": row["files"],
        "size": row["size"],
        "partial": row["partial"],
        "at": row["at"],
    }


def shown_state(state: str, counts: Mapping[str, int]) -> str:
    """A run's state as people see it: one whose jobs all wait for a runner to take them is not running."""
    begun = counts.get("starting", 0) + counts.get("running", 0) + counts.get("saving", 0)
    return (
        "queued" if state == "running" and not begun and counts.get("queued", 0) + counts.get("assigned", 0) else state
    )


def _waits(view: Mapping[str, Any]) -> bool:
    return view["status_text"] == _STATUS_TEXT["queued"]


def _status_text(state: str, intent: str) -> str:
    if intent and state not in JOB_TERMINAL and state not in RUN_TERMINAL:
        return "Aborting..." if intent == "abort" else "Stopping..."
    return _STATUS_TEXT[state]


def _job_text(row: Any) -> str:
    return "Reused" if row["reused_from"] else _status_text(row["state"], row["intent"])


_earlier = runs.alias("earlier")


def _select_runs() -> Any:
    return select(
        *[
            runs.c[name]
            for name in (
                "id", "name", "workflow", "state", "intent", "intent_by", "reason", "detail", "root_job_id", "user",
                "submitted_at", "started_at", "finished_at", "code_manifest_id", "branch", "commit", "resumed_from",
            )
        ],
        _earlier.c.name.label("earlier"),
        repositories.c.key.label("repository"),
        repositories.c.name.label("repository_name"),
    ).outerjoin(
        repositories,
        and_(repositories.c.project_id == runs.c.project_id, repositories.c.id == runs.c.repository_id),
    ).outerjoin(
        _earlier, and_(_earlier.c.project_id == runs.c.project_id, _earlier.c.id == runs.c.resumed_from)
    )  # fmt: skip


def _runs(tx: Transaction, project_id: UUID, found: Sequence[Any], *, whole: bool = True) -> list[dict[str, Any]]:
    """The views of `found`, with as many statements for one run as for a page of them."""
    if not found:
        return []
    ids = [row["id"] for row in found]
    counts = _job_counts(tx, project_id, ids)
    large = [run_id for run_id in ids if not whole and sum(counts[run_id].values()) > LISTED_JOBS]
    small = [run_id for run_id in ids if run_id not in large]
    shown_jobs = job_rows(tx, project_id, small)
    saved_items = artifacts.newest_of_runs(tx, project_id, small)
    if large:
        roots = [row["root_job_id"] for row in found if row["id"] in large and row["root_job_id"] is not None]
        first = sorted({*_first_jobs(tx, project_id, large), *roots})
        shown_jobs += job_rows(tx, project_id, large, first)
        saved_items += artifacts.newest_of_jobs(tx, project_id, first)
    jobs_of: dict[UUID, list[Any]] = {run_id: [] for run_id in ids}
    for row in shown_jobs:
        jobs_of[row["run_id"]].append(row)
    tags_of: dict[UUID, set[str]] = {run_id: set() for run_id in ids}
    of_tags = select(tags.c.run_id, tags.c.name).where(tags.c.project_id == project_id, tags.c.run_id.in_(ids))
    for run_id, name in tx.execute(of_tags):
        tags_of[run_id].add(name)
    variables = _root_variables(tx, project_id, ids)
    saved: dict[UUID, list[dict[str, Any]]] = {}
    for item in saved_items:
        saved.setdefault(item["job_id"], []).append(item)
    shown: list[dict[str, Any]] = []
    for row in found:
        rows_of = jobs_of[row["id"]]
        views = [job_view(job, saved.get(job["id"], ())) for job in rows_of]
        view = _run(row, rows_of, views, sorted(tags_of[row["id"]]), variables.get(row["id"], {}))
        told = _status_text(shown_state(row["state"], counts[row["id"]]), row["intent"])
        total = sum(counts[row["id"]].values())
        shown.append({**view, "status_text": told, "jobs_total": total, "job_counts": counts[row["id"]]})
    return shown


def _job_counts(tx: Transaction, project_id: UUID, ids: Sequence[UUID]) -> dict[UUID, dict[str, int]]:
    """How many jobs of each run are in which state, read from an index alone."""
    query = (
        select(jobs.c.run_id, jobs.c.state, func.count())
        .where(jobs.c.project_id == project_id, jobs.c.run_id.in_(ids))
        .group_by(jobs.c.run_id, jobs.c.state)
    )
    counts: dict[UUID, dict[str, int]] = {run_id: {} for run_id in ids}
    for run_id, state, number in tx.execute(query):
        counts[run_id][state] = number
    return counts


def _first_jobs(tx: Transaction, project_id: UUID, ids: Sequence[UUID]) -> set[UUID]:
    """The first jobs of each run by name: an index has that order, so the size of the runs costs nothing."""
    # Few statements serve all: making one costs more than running it.
    size = next((size for size in (4, 20) if size >= len(ids)), len(ids))
    padded = [*ids, *[ids[-1]] * (size - len(ids))]
    parameters = {f"run_{number}": run_id for number, run_id in enumerate(padded)}
    return set(tx.execute(_select_first(size), {"project": project_id, "most": PART, **parameters}).scalars())


@lru_cache(maxsize=128)
def _select_first(runs_asked: int) -> Any:
    pieces = [
        select(
            select(jobs.c.id)
            .where(
                jobs.c.project_id == bindparam("project", type_=Id),
                jobs.c.run_id == bindparam(f"run_{number}", type_=Id),
            )
            .order_by(jobs.c.name)
            .limit(bindparam("most", type_=Integer))
            .subquery()
        )
        for number in range(runs_asked)
    ]
    return union_all(*pieces)


def _root_variables(tx: Transaction, project_id: UUID, ids: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
    """The variables of each run's root step: the workflow that was asked for."""
    query = select(steps.c.run_id, steps.c.plan).join(
        runs, and_(runs.c.project_id == steps.c.project_id, runs.c.id == steps.c.run_id)
    ).where(steps.c.project_id == project_id, steps.c.run_id.in_(ids), steps.c.workflow == runs.c.workflow)  # fmt: skip
    return {
        run_id: {name: value for name, (value, _) in msgspec.msgpack.decode(plan, type=StoredPlan).variables.items()}
        for run_id, plan in tx.execute(query)
        if plan
    }


def _run(
    row: Any, job_rows_: Sequence[Any], job_views: list[dict[str, Any]], tag_names: list[str], variables: dict[str, Any]
) -> dict[str, Any]:
    root = next((job for job in job_rows_ if job["id"] == row["root_job_id"]), None)
    return {
        "id": format_id("run", row["id"]),
        "name": row["name"],
        "workflow": row["workflow"],
        "status": row["state"],
        "status_text": _status_text(row["state"], row["intent"]),
        "stopping": bool(row["intent"]) and row["state"] not in RUN_TERMINAL,
        "reason": row["reason"],
        "reason_text": _reason_text(row, root),
        "why_waiting": None,
        "exit_code": exit_code(row, root),
        "tags": tag_names,
        "repository": row["repository"],
        "repository_name": row["repository_name"],
        "user": row["user"],
        "branch": row["branch"],
        "commit": row["commit"],
        "resumed_from": (row["earlier"] or DELETED) if row["resumed_from"] else None,
        "submitted_at": row["submitted_at"],
        "started_at": row["started_at"],
        "finished_at": row["finished_at"],
        "variables": variables,
        "jobs": job_views,
    }


def _reason_text(row: Any, root: Any) -> str | None:
    if row["reason"] is None:
        return None
    text = sentence(
        Reason(row["reason"]),
        exit_code=root["exit_code"] if root is not None else None,
        actor=(root["intent_by"] if root is not None else None) or row["intent_by"],
        detail=row["detail"],
    )
    return f"{root['name']} {text}" if root is not None else text


def exit_code(row: Any, root: Any) -> int | None:
    """What `dstack run` exits with, None until the run is over."""
    if row["state"] not in RUN_TERMINAL:
        return None
    if row["state"] == "done":
        return 0
    return cli_exit(Reason(row["reason"]), root["exit_code"] if root is not None else None)
