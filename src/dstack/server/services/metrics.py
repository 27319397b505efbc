"""Metrics of jobs: points that runners report, lines of JSON in the logs, and the series that people see.

A point's `seq` is its place in what it was read from, so storing it again changes nothing. The log is read when
somebody asks, from where the last reader left off (`attempts.metrics_length`): it costs a job that prints none nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import and_, bindparam, func, select, update

from dstack.logs.metric_lines import MetricLine, Source, parse, place_of
from dstack.protocol.messages import MetricPoint
from dstack.server.db.engine import Transaction, declare_write
from dstack.server.db.tables import attempts, jobs, metrics
from dstack.server.services.context import Context
from dstack.server.services.named import run_id_of

SCAN = declare_write("metrics.scan")
PAGE = 1 << 20
MAX_POINTS = 1_000_000
"""Of one attempt; what a job logs beyond is not kept."""
MOST_SHOWN = 2_000
"""Points of one series in an answer."""

# What may be a line of metrics: most of a log is passed over without being taken apart.
_CANDIDATE = re.compile(rb"^[ \t]*\{.*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Owner:
    """The attempt that logged something."""

    id: UUID
    number: int
    job_id: UUID
    run_id: UUID


def record(tx: Transaction, project_id: UUID, owner: Owner, points: Sequence[MetricPoint]) -> None:
    """Store what a runner reports of an attempt; points that are there stay as they are."""
    _insert(tx, project_id, owner, ((point.seq, point.name, point.step, point.at, point.value) for point in points))


def series(context: Context, run: str, *, job: str | None, name: str | None, points: int) -> list[dict[str, Any]]:
    """Each metric of each job of `run`, of the newest attempt that logged it, with up to `points` of its values.

    Raises NotFound.
    """
    project_id = context.project_id
    run_id = context.database.read(lambda tx: run_id_of(tx, project_id, run))
    _scan_logs(context, run_id)
    return context.database.read(lambda tx: _series(tx, project_id, run_id, job, name, min(points, MOST_SHOWN)))


# --- reading the logs ------------------------------------------------------------------------------------------


def _scan_logs(context: Context, run_id: UUID) -> None:
    """Take in what the logs of a run's attempts hold since they were last read."""
    query = select(
        attempts.c.id, attempts.c.number, attempts.c.job_id, attempts.c.run_id, attempts.c.state,
        attempts.c.metrics_length,
    ).where(attempts.c.project_id == context.project_id, attempts.c.run_id == run_id)  # fmt: skip
    for row in context.database.read(lambda tx: tx.execute(query).all()):
        owner = Owner(row.id, row.number, row.job_id, row.run_id)
        offset, length = row.metrics_length, context.logs.length_now(row.id)
        while offset < length:
            data = context.logs.read_now(row.id, offset, PAGE).data
            ended = row.state == "ended" and offset + len(data) >= length
            upto = _whole_lines(data, ended=ended)
            if not upto:
                break
            _take_in(context, owner, offset, data[:upto])
            offset += upto


def _whole_lines(data: bytes, *, ended: bool) -> int:
    """How much of `data` can be taken in: up to its last line break, or all of it where no line can go on."""
    if ended or len(data) >= PAGE:
        return data.rfind(b"\n") + 1 or len(data)
    return data.rfind(b"\n") + 1


def _take_in(context: Context, owner: Owner, offset: int, data: bytes) -> None:
    found = list(_metric_lines(data, offset))

    def write(tx: Transaction) -> None:
        if found:
            _insert(tx, context.project_id, owner, _points(context, owner, found, tx.now))
        tx.execute(
            update(attempts)
            .where(
                attempts.c.project_id == context.project_id, attempts.c.id == owner.id,
                attempts.c.metrics_length == offset,
            )
            .values(metrics_length=offset + len(data))
        )  # fmt: skip

    context.database.write(SCAN, write)


def _metric_lines(data: bytes, offset: int) -> Iterator[tuple[int, MetricLine]]:
    for match in _CANDIDATE.finditer(data):
        line = parse(match[0], strict=True)
        if line is not None:
            yield offset + match.start(), line


def _points(
    context: Context, owner: Owner, found: Sequence[tuple[int, MetricLine]], now: int
) -> Iterator[tuple[int, str, int | None, int, float]]:
    for offset, line in found:
        at = line.at or context.logs.time_of_now(owner.id, offset) or now
        for name, value in line.values.items():
            yield place_of(Source.LOG, offset), name, line.step, at, value


# --- rows --------------------------------------------------------------------------------------------------------


def _insert(
    tx: Transaction, project_id: UUID, owner: Owner, points: Iterable[tuple[int, str, int | None, int, float]]
) -> None:
    room = MAX_POINTS - _count(tx, project_id, owner.id)
    rows = [
        {
            "project_id": project_id, "attempt_id": owner.id, "run_id": owner.run_id, "job_id": owner.job_id,
            "attempt": owner.number, "name": name, "seq": seq, "step": step, "at": at,
            "value": None if math.isnan(value) else value,
        }
        for (seq, name, step, at, value), _ in zip(points, range(max(room, 0)), strict=False)
    ]  # fmt: skip
    tx.insert_missing(metrics, rows)


def _count(tx: Transaction, project_id: UUID, attempt_id: UUID) -> int:
    query = select(func.count()).select_from(metrics)
    return tx.execute(query.where(metrics.c.project_id == project_id, metrics.c.attempt_id == attempt_id)).scalar_one()


def _series(
    tx: Transaction, project_id: UUID, run_id: UUID, job: str | None, name: str | None, points: int
) -> list[dict[str, Any]]:
    query = (
        select(
            jobs.c.name.label("job"), metrics.c.attempt_id, metrics.c.attempt, metrics.c.name,
            func.count().label("count"), func.min(metrics.c.value).label("min"),
            func.max(metrics.c.value).label("max"),
        )
        .join(jobs, and_(jobs.c.project_id == metrics.c.project_id, jobs.c.id == metrics.c.job_id))
        .where(metrics.c.project_id == project_id, metrics.c.run_id == run_id)
        .group_by(jobs.c.name, metrics.c.attempt_id, metrics.c.attempt, metrics.c.name)
        .order_by(jobs.c.name, metrics.c.name, metrics.c.attempt)
    )  # fmt: skip
    if job is not None:
        query = query.where(jobs.c.name == job)
    if name is not None:
        query = query.where(metrics.c.name == name)
    # In order of attempts, so that the newest that logged a metric is the one that is kept.
    newest = {(row.job, row.name): row for row in tx.execute(query)}
    return [_shown(tx, project_id, row, points) for row in newest.values()]


def _shown(tx: Transaction, project_id: UUID, row: Any, points: int) -> dict[str, Any]:
    key = {"project": project_id, "attempt": row.attempt_id, "name": row.name}
    (last,) = tx.execute(_LAST, key)
    every = max(1, -(-row.count // points)) if points else row.count + 1
    chosen: Sequence[Any] = tx.execute(_POINTS, {**key, "every": every, "last": row.count}).all() if points else ()
    return {
        "job": row.job, "attempt": row.attempt, "name": row.name, "count": row.count, "min": _json(row.min),
        "max": _json(row.max), "last": _json(last.value), "last_step": last.step, "last_at": last.at,
        "points": [[point.step, point.at, _json(point.value)] for point in chosen],
    }  # fmt: skip


def _json(value: float | None) -> float | str | None:
    """A value as JSON has it: null for NaN, texts for infinities."""
    if value is None or math.isfinite(value):
        return value
    return "Infinity" if value > 0 else "-Infinity"


_OF_SERIES = (
    metrics.c.project_id == bindparam("project"),
    metrics.c.attempt_id == bindparam("attempt"),
    metrics.c.name == bindparam("name"),
)
_POINT = (metrics.c.step, metrics.c.at, metrics.c.value)
_LAST = select(*_POINT).where(*_OF_SERIES).order_by(metrics.c.seq.desc()).limit(1)
_NUMBER = func.row_number().over(order_by=metrics.c.seq).label("number")
_NUMBERED = select(*_POINT, _NUMBER).where(*_OF_SERIES).subquery()
# Every so manieth, and always the last: what a plot ends with is what people look for.
_POINTS = (
    select(_NUMBERED.c.step, _NUMBERED.c.at, _NUMBERED.c.value)
    .where((_NUMBERED.c.number % bindparam("every") == 0) | (_NUMBERED.c.number == bindparam("last")))
    .order_by(_NUMBERED.c.number)
)
