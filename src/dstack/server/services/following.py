"""The frame stream of a run: its jobs' changes and log bytes in order, from any cursor, live or not.

Nothing is remembered between two requests: the reader's cursor says what it has, the events table says what
changed since the last look, and a wake-up only says that it is time to look.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import select

from dstack.domain.lifecycle.job import TERMINAL as JOB_TERMINAL
from dstack.domain.lifecycle.run import TERMINAL as RUN_TERMINAL
from dstack.domain.parts import parts
from dstack.server.db.engine import Transaction
from dstack.server.db.tables import attempts, events, runs
from dstack.server.services import views, waiting
from dstack.server.services.context import Context
from dstack.server.services.named import run_id_of, see_jobs
from dstack.server.services.problems import problem_topic

BEAT = 15.0
QUIET = 2.0
"""Seconds without news after which it is told why jobs wait, and whose runner cannot be reached."""
RESTATED = 20
"""Jobs that this is told of."""
PIECE = 1 << 20
MIN_INTERVAL = 0.05
"""Seconds between two looks at a run of many jobs: a thousand steps a second are told in batches."""


@dataclass(slots=True)
class _Stream:
    """Where the reader is in one job's log."""

    attempt: int
    offset: int = 0
    attempt_id: UUID | None = None


@dataclass(slots=True)
class _Look:
    run: Any
    jobs: list[Any]
    attempts: dict[UUID, list[tuple[int, UUID]]] = field(default_factory=dict[UUID, list[tuple[int, UUID]]])


async def frames(
    context: Context,
    name: str,
    *,
    follow: bool,
    job: str | None = None,
    since: int | None = None,
    cursor: dict[str, tuple[int, int]] | None = None,
) -> AsyncIterator[bytes]:
    """Frames as docs/design/interfaces.md lists them. Raises NotFound before the first for an unknown run or job."""

    def read(tx: Transaction) -> UUID:
        run_id = run_id_of(tx, context.project_id, name)
        if job is not None:
            see_jobs(tx, context.project_id, [run_id], f"run {name}", job)
        return run_id

    run_id = await context.database.aread(read)
    return _Follower(context, name, run_id, job, since, cursor or {}).frames(follow)


class _Follower:
    def __init__(
        self,
        context: Context,
        name: str,
        run_id: UUID,
        only: str | None,
        since: int | None,
        cursor: dict[str, tuple[int, int]],
    ) -> None:
        self._context = context
        self._name = name
        self._run_id = run_id
        self._only = only
        self._since = since
        self._cursor = cursor
        self._seq = -1
        self._streams: dict[UUID, _Stream] = {}
        self._open: dict[UUID, str] = {}
        self._stated: dict[UUID, tuple[str | None, str | None]] = {}
        self._run_told: tuple[str, str] | None = None

    async def frames(self, follow: bool) -> AsyncIterator[bytes]:
        topic = f"run:{self._run_id.hex}"
        problem = problem_topic(self._run_id)
        with self._context.bus.subscribe([topic, problem, "shutdown"]) as subscription:
            patience = QUIET
            while True:
                look = await self._context.database.aread(self._look)
                for piece in _joined(self._tell(look)):
                    yield piece
                if not follow or look.run.state in RUN_TERMINAL:
                    break
                news = await subscription.wait_topics(patience)
                patience = QUIET if news else BEAT
                if "shutdown" in news:
                    return  # no end frame: the reader asks the next server for the rest
                if not news:
                    yield b"".join(await self._context.database.aread(self._restate)) + _frame({"t": "beat"})
                elif problem in news:
                    yield b"".join(await self._context.database.aread(self._restate))
                elif len(self._streams) > 1:
                    await asyncio.sleep(MIN_INTERVAL)
        shown = await self._context.database.aread(lambda tx: views.run_view(tx, self._context.project_id, self._name))
        yield _frame({"t": "end", "run": shown})

    def _look(self, tx: Transaction) -> _Look:
        project_id = self._context.project_id
        run = tx.execute(
            select(runs.c.state, runs.c.intent, runs.c.seq).where(
                runs.c.project_id == project_id, runs.c.id == self._run_id
            )
        ).one()
        first = self._seq < 0
        changed: list[UUID] | None = None
        if not first:
            query = select(events.c.object_id).distinct().where(
                events.c.project_id == project_id,
                events.c.run_id == self._run_id,
                events.c.seq > self._seq,
                events.c.kind == "job",
            )  # fmt: skip
            changed = list(tx.execute(query).scalars())
        self._seq = run.seq
        look = _Look(run, [])
        for part in [None] if changed is None else parts(changed):
            look.jobs.extend(views.job_rows(tx, project_id, [self._run_id], part))
        if self._only is not None:
            look.jobs = [row for row in look.jobs if self._only in (row["name"], row["workflow"])]
        again = [row["id"] for row in look.jobs if row["attempt"] > 1]
        for part in parts(again):
            query = select(attempts.c.job_id, attempts.c.number, attempts.c.id).where(
                attempts.c.project_id == project_id, attempts.c.job_id.in_(part)
            )
            for job_id, number, attempt_id in tx.execute(query.order_by(attempts.c.number)):
                look.attempts.setdefault(job_id, []).append((number, attempt_id))
        return look

    def _restate(self, tx: Transaction) -> list[bytes]:
        """Frames of open jobs about which something changed that is no event: why they wait, an unreachable runner."""
        project_id = self._context.project_id
        whys = waiting.whys(tx, project_id, self._run_id, self._context.settings, self._context.problems)
        silent = [job_id for job_id in self._open if job_id not in whys][:RESTATED]
        frames: list[bytes] = []
        for row in views.job_rows(tx, project_id, [self._run_id], [*(whys.keys() & self._open.keys()), *silent]):
            about = (whys.get(row["id"]), row["runner_state"])
            if row["state"] not in JOB_TERMINAL and self._stated.get(row["id"], (None, "online")) != about:
                self._stated[row["id"]] = about
                frames.append(_job_frame(row, whys.get(row["id"])))
        return frames

    def _tell(self, look: _Look) -> Iterable[bytes]:
        state = (look.run.state, look.run.intent)
        if state != self._run_told and look.run.state not in RUN_TERMINAL:
            yield self._run_frame(look)
        for row in look.jobs:
            if row["state"] in JOB_TERMINAL:
                yield from self._pump_job(row, look)
                self._open.pop(row["id"], None)
                yield _job_frame(row)
            else:
                yield _job_frame(row)
                self._open[row["id"]] = row["name"]
                yield from self._pump_job(row, look)
        for job_id, name in self._open.items():
            stream = self._streams.get(job_id)
            if stream is not None:
                yield from self._pump(name, stream)
        if state != self._run_told and look.run.state in RUN_TERMINAL:
            yield self._run_frame(look)

    def _run_frame(self, look: _Look) -> bytes:
        self._run_told = (look.run.state, look.run.intent)
        return _frame({"t": "run", "status": look.run.state, "stopping": bool(look.run.intent)})

    def _pump_job(self, row: Any, look: _Look) -> Iterable[bytes]:
        """What is new in the logs of all attempts of a job, oldest first."""
        if not row["attempt"]:
            return
        found = look.attempts.get(row["id"]) or [(row["attempt"], row["attempt_id"])]
        for number, attempt_id in found:
            stream = self._streams.get(row["id"])
            if stream is None:
                stream = self._streams[row["id"]] = self._begin(row["name"], number)
            if number < stream.attempt:
                continue
            if stream.attempt != number:
                stream.attempt, stream.offset, stream.attempt_id = number, 0, None
            if stream.attempt_id is None:
                stream.attempt_id = attempt_id
                if self._since is not None:
                    stream.offset = max(stream.offset, self._context.logs.offset_at_now(attempt_id, self._since))
            yield from self._pump(row["name"], stream)

    def _begin(self, name: str, number: int) -> _Stream:
        known = self._cursor.get(name)
        return _Stream(known[0], known[1]) if known is not None else _Stream(number)

    def _pump(self, name: str, stream: _Stream) -> Iterable[bytes]:
        if stream.attempt_id is None:
            return
        while True:
            page = self._context.logs.read_now(stream.attempt_id, stream.offset, PIECE)
            if not page.data:
                return
            head = {"t": "log", "job": name, "attempt": stream.attempt, "offset": stream.offset, "n": len(page.data)}
            yield _frame(head)
            yield page.data
            stream.offset = page.next


def _job_frame(row: Any, why: str | None = None) -> bytes:
    return _frame({"t": "job", "job": row["name"], **views.job_view(row), "why_waiting": why})


def _frame(frame: dict[str, Any]) -> bytes:
    return json.dumps(frame, separators=(",", ":")).encode() + b"\n"


def _joined(frames: Iterable[bytes], size: int = 65536) -> Iterable[bytes]:
    """Small frames together: a write each would cost more than what they tell."""
    waiting: list[bytes] = []
    length = 0
    for frame in frames:
        waiting.append(frame)
        length += len(frame)
        if length >= size:
            yield b"".join(waiting) if len(waiting) > 1 else frame
            waiting, length = [], 0
    if waiting:
        yield b"".join(waiting)
