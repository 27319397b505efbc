"""Why a run waits, or why it failed: the root-cause job, its end in words, its last lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select

from dstack.domain.lifecycle.job import TERMINAL
from dstack.domain.lifecycle.run import TERMINAL as RUN_TERMINAL
from dstack.domain.reasons import Reason
from dstack.server.db.engine import Transaction
from dstack.server.db.tables import runs
from dstack.server.services import views, waiting
from dstack.server.services.context import Context
from dstack.server.services.named import run_id_of
from dstack.server.services.stored import decode_warnings
from dstack.server.services.waiting import SHOWN

_STATES = {
    "planning": "is being planned",
    "queued": "is queued",
    "running": "is running",
    "done": "is done",
    "failed": "failed",
    "stopped": "was stopped",
}


@dataclass(frozen=True, slots=True)
class Explanation:
    """`lines` tell what neither `root_cause` nor `waiting` does.

    `attempt_id` is the stream whose last lines belong to the root cause.
    """

    summary: str
    lines: list[str]
    root_cause: dict[str, Any] | None
    attempt_id: UUID | None
    waiting: list[dict[str, str]]


def explain(tx: Transaction, context: Context, name: str) -> Explanation:
    """Raises NotFound for an unknown run."""
    project_id = context.project_id
    run_id = run_id_of(tx, project_id, name)
    run = tx.execute(select(runs).where(runs.c.project_id == project_id, runs.c.id == run_id)).mappings().one()
    rows = views.job_rows(tx, project_id, [run_id])
    whys = waiting.whys(tx, project_id, run_id, context.settings, context.problems)
    held = [{"job": row["name"], "why": whys[row["id"]]} for row in rows if row["id"] in whys]
    root = next((row for row in rows if row["id"] == run["root_job_id"]), None)
    root = root or next((row for row in rows if row["state"] == "failed"), None)
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["state"]] = counts.get(row["state"], 0) + 1
    # The root cause and what waits are told of apart from these.
    lines = [_line(row) for row in rows if row["state"] in ("failed", "stopped") and row is not root][:SHOWN]
    by_condition = [row for row in rows if row["reason"] == Reason.CONDITION]
    by_dependency = [row for row in rows if row["reason"] == Reason.DEPENDENCY]
    lines.extend([_line(row) for row in by_condition][:SHOWN])
    if by_dependency and root is not None:
        lines.append(f"{len(by_dependency)} skipped because {root['name']} did not succeed")
    else:
        lines.extend([_line(row) for row in by_dependency][:SHOWN])
    lines.extend([_cut_log(row) for row in rows if row["log_incomplete"]][:SHOWN])
    lines.extend(_not_as_it_was(rows))
    if run["resumed_from"] is not None:
        lines.append(_resumed(tx, project_id, run, rows))
    if run["state"] not in RUN_TERMINAL:
        lines.extend(
            _unreachable(row) for row in rows if row["runner_state"] == "lost" and row["state"] not in TERMINAL
        )
    cause = None
    if root is not None:
        view = views.job_view(root)
        cause = {
            "job": root["name"],
            "reason": root["reason"],
            "sentence": f"{root['name']} {view['reason_text']}{_after(root['attempt'])}",
            "exit_code": root["exit_code"],
        }
    return Explanation(_summary(run, counts), lines, cause, root["attempt_id"] if root is not None else None, held)


def _after(attempt: int) -> str:
    return f" (attempt {attempt})" if attempt > 1 else ""


def _summary(run: Any, counts: dict[str, int]) -> str:
    words = _STATES[views.shown_state(run["state"], counts)]
    if run["intent"] and run["state"] not in RUN_TERMINAL:
        words = "is being aborted" if run["intent"] == "abort" else "is stopping"
        words += f", as {run['intent_by'] or 'someone'} asked"
    told = ", ".join(f"{number} {state}" for state, number in counts.items())
    return f"run {run['name']} {words}" + (f" ({told})" if told else "")


def _line(row: Any) -> str:
    return f"{row['name']} {views.job_view(row)['reason_text']}"


def _resumed(tx: Transaction, project_id: UUID, run: Any, rows: Sequence[Any]) -> str:
    query = select(runs.c.name).where(runs.c.project_id == project_id, runs.c.id == run["resumed_from"])
    earlier = tx.execute(query).scalar() or "a run that was deleted"
    reused = [row["name"] for row in rows if row["reused_from"]]
    more = f" and {len(reused) - SHOWN} more" if len(reused) > SHOWN else ""
    told = f"; of that it reuses {', '.join(reused[:SHOWN])}{more}" if reused else ""
    return f"{run['name']} follows {earlier}{told}"


def _cut_log(row: Any) -> str:
    return f"the log of {row['name']} is not whole: its runner could not send all of it, and its own log says why"


def _not_as_it_was(rows: Sequence[Any]) -> list[str]:
    """What of the artifacts could not be saved as it was: of each job all that is kept, of many jobs the first."""
    warned = [row for row in rows if row["save_warnings"]]
    told = [
        f"warning: {row['name']}: {text}" if len(rows) > 1 else f"warning: {text}"
        for row in warned[:SHOWN]
        for text in decode_warnings(row["save_warnings"])
    ]
    more = len(warned) - SHOWN
    return [*told, f"warning: and {more} more jobs, whose logs name what was not saved"] if more > 0 else told


def _unreachable(row: Any) -> str:
    since = datetime.fromtimestamp(row["lost_at"] / 1e6, UTC).isoformat(timespec="seconds")
    return f"{row['name']}: its runner {row['runner']} has been unreachable since {since}; the job may go on there"
