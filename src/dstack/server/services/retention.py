"""The rules of a project for what is kept, and the letting go of what is not: see `domain/retention.py`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import delete, exists, func, insert, select

from dstack.domain.lifecycle.run import TERMINAL
from dstack.domain.parts import parts
from dstack.domain.retention import FOREVER, Retention, RuleError, Snapshot, changed, going, words
from dstack.server.db.engine import Transaction, declare_write
from dstack.server.db.tables import artifacts, jobs, retention, run_sources, runs, steps, tags
from dstack.server.services import delete as deleting
from dstack.server.services.context import Context
from dstack.server.services.errors import BadRequest
from dstack.server.services.stored import StoredPlan

SET: Final = declare_write("retention.set")
THIN: Final = declare_write("retention.thin")
ACTOR: Final = "retention"
BATCH: Final = 500
SERIES: Final = 50
"""Artifacts that are looked at together."""
TOGETHER: Final = 10
"""Runs that are deleted in one transaction."""


def rules_of(tx: Transaction, project_id: UUID) -> Retention:
    row = tx.execute(select(retention).where(retention.c.project_id == project_id)).first()
    return Retention(row.live, row.every, row.last, row.partials, row.runs or FOREVER) if row else Retention()


def shown(context: Context) -> dict[str, Any]:
    """The rules as the API tells them."""

    def read(tx: Transaction) -> dict[str, Any]:
        row = tx.execute(select(retention).where(retention.c.project_id == context.project_id)).first()
        return {
            "rules": words(rules_of(tx, context.project_id)),
            "defaults": words(Retention()),
            "set_by": row.set_by if row else None,
            "set_at": row.set_at if row else None,
        }

    return context.database.read(read)


def set_rules(context: Context, given: Mapping[str, str], actor: str | None) -> dict[str, Any]:
    """Change some rules, given in words. Raises BadRequest."""

    def write(tx: Transaction) -> None:
        try:
            rules = changed(rules_of(tx, context.project_id), given)
        except RuleError as error:
            raise BadRequest(str(error), hint=error.hint) from None
        tx.execute(delete(retention).where(retention.c.project_id == context.project_id))
        row = {**asdict(rules), "runs": None if rules.runs >= FOREVER else rules.runs}
        tx.execute(insert(retention), {**row, "project_id": context.project_id, "set_by": actor, "set_at": tx.now})

    context.database.write(SET, write)
    return shown(context)


# --- snapshots ------------------------------------------------------------------------------------------------------


def thinned(context: Context) -> Iterator[list[UUID]]:
    """The snapshots that the rules let go, some at a time; nothing is changed."""
    project_id = context.project_id
    rules = context.database.read(lambda tx: rules_of(tx, project_id))
    several = (
        select(artifacts.c.job_id)
        .where(artifacts.c.project_id == project_id)
        .group_by(artifacts.c.job_id, artifacts.c.path)
        .having(func.count() > 1)
    )
    found = context.database.read(lambda tx: sorted(set(tx.execute(several).scalars())))
    for part in parts(found, SERIES):
        yield context.database.read(lambda tx, part=part: _going_of(tx, project_id, part, rules))


def thin(context: Context) -> Iterator[int]:
    """Let go of what the rules do not keep, some at a time; how many snapshots each time."""
    for found in thinned(context):
        for part in parts(found, BATCH):
            yield context.database.write(THIN, lambda tx, part=part: _let_go(tx, context.project_id, part))


def _let_go(tx: Transaction, project_id: UUID, ids: Sequence[UUID]) -> int:
    """Delete those that nobody has named since: who tags a run locks it, too."""
    these = (artifacts.c.project_id == project_id, artifacts.c.id.in_(ids))
    of_runs = select(artifacts.c.run_id).where(*these)
    lock = select(runs.c.id).where(runs.c.project_id == project_id, runs.c.id.in_(of_runs)).order_by(runs.c.id)
    tx.execute(lock.with_for_update())
    rows = tx.execute(
        select(artifacts.c.id, artifacts.c.run_id, artifacts.c.job_id, artifacts.c.manifest_id).where(*these)
    ).all()
    pins = _Pins(tx, project_id, [[row] for row in rows])
    free = [row.id for row in rows if not pins.has(row)]
    return tx.execute(delete(artifacts).where(artifacts.c.project_id == project_id, artifacts.c.id.in_(free))).rowcount


def _going_of(tx: Transaction, project_id: UUID, job_ids: Sequence[UUID], rules: Retention) -> list[UUID]:
    query = (
        select(
            artifacts.c.id, artifacts.c.run_id, artifacts.c.job_id, artifacts.c.path, artifacts.c.attempt,
            artifacts.c.manifest_id, artifacts.c.live, artifacts.c.taken_at,
            artifacts.c.files,
        )
        .where(artifacts.c.project_id == project_id, artifacts.c.job_id.in_(job_ids))
        .order_by(artifacts.c.job_id, artifacts.c.path, artifacts.c.attempt, artifacts.c.id)
    )  # fmt: skip
    series = [list(rows) for _, rows in groupby(tx.execute(query), key=lambda row: (row.job_id, row.path))]
    # Few have anything to let go: what is pinned is looked up for those alone.
    series = [rows for rows in series if going(_snapshots(rows), rules, tx.now)]
    pins = _Pins(tx, project_id, series)
    return [found.id for rows in series for found in going(_snapshots(rows, pins), rules, tx.now)]


def _snapshots(rows: Iterable[Any], pins: _Pins | None = None) -> list[Snapshot]:
    return [
        Snapshot(row.id, row.attempt, row.taken_at, bool(row.live), pins is not None and pins.has(row), row.files > 0)
        for row in rows
    ]


class _Pins:
    """What some artifacts' snapshots are needed for: a tag of their workflow, or a run that was given one."""

    def __init__(self, tx: Transaction, project_id: UUID, series: Sequence[Sequence[Any]]) -> None:
        self._tagged: set[UUID] = set()
        """Jobs."""
        self._given: set[bytes] = set()
        job_ids = sorted({rows[0].job_id for rows in series})
        run_ids = sorted({rows[0].run_id for rows in series})
        of_workflow = (
            select(jobs.c.id)
            .join(tags, (tags.c.project_id == jobs.c.project_id) & (tags.c.run_id == jobs.c.run_id))
            .where(jobs.c.project_id == project_id, jobs.c.id.in_(job_ids), tags.c.workflow == jobs.c.workflow)
        )
        self._tagged.update(tx.execute(of_workflow).scalars())
        users = (
            select(run_sources.c.run_id)
            .join(runs, (runs.c.project_id == run_sources.c.project_id) & (runs.c.name == run_sources.c.source))
            .where(run_sources.c.project_id == project_id, runs.c.id.in_(run_ids))
        )
        for part in parts(set(tx.execute(users).scalars()), BATCH):
            plans = select(steps.c.plan).where(
                steps.c.project_id == project_id, steps.c.run_id.in_(part), steps.c.plan.is_not(None)
            )
            for plan in tx.execute(plans).scalars():
                self._given.update(item.manifest_id for item in msgspec.msgpack.decode(plan, type=StoredPlan).inputs)

    def has(self, row: Any) -> bool:
        return row.job_id in self._tagged or bytes(row.manifest_id) in self._given


# --- runs -----------------------------------------------------------------------------------------------------------


def expired(context: Context) -> list[str]:
    """The runs that the rules let go, oldest first: finished, without a tag, and no run was given what they saved."""

    def read(tx: Transaction) -> list[str]:
        rules = rules_of(tx, context.project_id)
        if rules.runs >= FOREVER:
            return []
        tagged = exists(select(tags.c.name).where(tags.c.project_id == runs.c.project_id, tags.c.run_id == runs.c.id))
        used = exists(
            select(run_sources.c.run_id).where(
                run_sources.c.project_id == runs.c.project_id, run_sources.c.source == runs.c.name
            )
        )
        query = (
            select(runs.c.name)
            .where(
                runs.c.project_id == context.project_id,
                runs.c.state.in_([state.value for state in TERMINAL]),
                runs.c.finished_at < tx.now - rules.runs,
                ~tagged,
                ~used,
            )
            .order_by(runs.c.id)
        )
        return list(tx.execute(query).scalars())

    return context.database.read(read)


def delete_expired(context: Context) -> Iterator[list[str]]:
    """Delete the runs that the rules let go, some at a time, with their logs; their names."""
    for part in parts(expired(context), TOGETHER):
        done = deleting.delete(context, part, force=False, actor=ACTOR)
        for stream in done.streams:
            context.logs.delete_now(stream)
        yield done.deleted
