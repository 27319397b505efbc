"""Runners: registration, the level-triggered poll, and the events they report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import and_, bindparam, insert, select

from dstack.domain.lifecycle import job as job_table
from dstack.domain.lifecycle import runner as runner_table
from dstack.domain.ports import SECOND
from dstack.protocol import messages
from dstack.server.db.engine import Transaction, declare_write
from dstack.server.db.prepared import Prepared
from dstack.server.db.tables import attempts, jobs, runners
from dstack.server.db.types import Id
from dstack.server.services import artifacts, assignments, holdings, metrics, packages, problems
from dstack.server.services.apply import Answer, Batch
from dstack.server.services.catalog import hold_saved
from dstack.server.services.context import Context
from dstack.server.services.facts import Facts
from dstack.server.services.place import may_place, place_in
from dstack.server.services.runner_moves import move
from dstack.server.services.stored import kept_warnings

REGISTER = declare_write("runners.register")
HEARTBEAT = declare_write("runners.heartbeat")
MISSING = declare_write("runners.missing")
EVENTS = declare_write("runners.events")


@dataclass(frozen=True, slots=True)
class RunnerGone:
    """The runner has to register again, and why."""

    why: str


def register(context: Context, request: messages.RegisterRequest) -> messages.RegisterReply:
    """Take a runner in; what it does not hold any more of what was placed on it goes back or is lost."""

    def write(tx: Transaction) -> UUID:
        runner_id = request.runner_id
        # Locked before the runs of what it holds: the sweep takes them in that order, too.
        row = _row(tx, context, runner_id, _LOCK_RUNNER) if runner_id is not None else None
        values = _registered(tx, context, request)
        if row is None:
            runner_id = runner_id or context.ids.new(tx.now)
            state = runner_table.RunnerState.ONLINE.value
            tx.execute(
                insert(runners),
                {"project_id": context.project_id, "id": runner_id, "state": state, "registered_at": tx.now, **values},
            )
        else:
            runner_id = row.id
            move(tx, context.project_id, row, runner_table.Registered(request.incarnation), **values)
            if row.incarnation != request.incarnation:
                _give_back(tx, context, runner_id, set(request.running))
        tx.notify("place")
        tx.notify("runners")
        return runner_id

    runner_id = context.database.write(REGISTER, write)
    return messages.RegisterReply(
        runner_id=runner_id,
        deployment_id=context.deployment_id,
        epoch=context.epoch,
        heartbeat=context.settings.heartbeat,
    )


def poll(
    context: Context, request: messages.PollRequest, *, tell_ended: bool = True, held: bool = False
) -> messages.Commands | RunnerGone:
    """What the runner should do differently from what it says it knows; renews its lease.

    `tell_ended`: also name attempts that it knows and that are over. `held`: the request is not fresh, so the
    runner may hold by now what it does not name.
    """
    row, now, found, live = context.database.read(lambda tx: _look(tx, context, request, held=held))
    if row is None:
        return RunnerGone("the server does not know this runner")
    if row.incarnation != request.incarnation or row.state == runner_table.RunnerState.OFFLINE:
        return RunnerGone("the server does not know this process of the runner")
    _tell_problems(context, request, live)
    holdings.tell(context, request.runner_id, request.inputs)
    lost = set(found.ask).intersection(request.missing)
    if lost:
        context.database.write(MISSING, lambda tx: _end_missing(tx, context, request, lost))
        found = msgspec.structs.replace(found, ask=tuple(asked for asked in found.ask if asked not in lost))
    due = row.heartbeat_at + int(context.settings.heartbeat * SECOND / 2)
    # Before what was written last: the clock was set back, and that lease would last an hour too long.
    if row.state != runner_table.RunnerState.ONLINE or not row.heartbeat_at <= now < due:
        context.database.write(HEARTBEAT, lambda tx: _heartbeat(tx, context, request))
    return found if tell_ended else msgspec.structs.replace(found, kill=(), orphaned=())


def _tell_problems(context: Context, request: messages.PollRequest, live: Sequence[Any]) -> None:
    told = {item.attempt_id: item.problem for item in request.known}
    stored = {row.id: context.problems.get(row.id, row.save_problem or "") for row in live if row.id in told}
    changed = {attempt_id: told[attempt_id] for attempt_id, text in stored.items() if told[attempt_id] != text}
    if changed:
        problems.tell(context, changed, {row.id: row.run_id for row in live})


def goodbye(context: Context, runner_id: UUID, incarnation: UUID) -> None:
    """The runner ends in order: nothing new is placed on it."""

    def write(tx: Transaction) -> None:
        row = _row(tx, context, runner_id)
        # One that still holds attempts does not leave in order: its lease runs out, and then it is lost, not offline.
        if row is not None and not _live(tx, context, runner_id):
            move(tx, context.project_id, row, runner_table.Goodbye(incarnation))

    context.database.write(HEARTBEAT, write)


def report(context: Context, request: messages.EventsRequest) -> messages.EventsReply:
    """Apply a batch of events; each gets its own answer and a bad one does not fail the others."""
    answers, assigned = context.database.write(EVENTS, lambda tx: _report(tx, context, request))
    return messages.EventsReply(
        answers=tuple(
            messages.EventAnswer(outcome=answer.outcome, detail=answer.detail, save_again=answer.save_again)
            for answer in answers
        ),
        commands=messages.Commands(assign=assigned),
    )


# --- the pieces --------------------------------------------------------------------------------------------------


def _row(tx: Transaction, context: Context, runner_id: UUID | None, query: Prepared | None = None) -> Any:
    found = tx.rows(query or _SELECT_RUNNER, {"project": context.project_id, "runner": runner_id})
    return next(iter(found), None)


def _registered(tx: Transaction, context: Context, request: messages.RegisterRequest) -> dict[str, Any]:
    return {
        "name": request.name,
        "incarnation": request.incarnation,
        "dstack_version": request.version,
        "capacity": msgspec.msgpack.encode(request.capacity),
        "slots": request.slots,
        "pythons": msgspec.msgpack.encode(request.pythons),
        "heartbeat_at": tx.now,
        "lease_until": tx.now + int(context.settings.lease * SECOND),
        "drain_asked": False,
    }


def _heartbeat(tx: Transaction, context: Context, request: messages.PollRequest) -> None:
    row = _row(tx, context, request.runner_id)
    lease = tx.now + int(context.settings.lease * SECOND)
    event = runner_table.Heartbeat(request.incarnation)
    move(tx, context.project_id, row, event, heartbeat_at=tx.now, lease_until=lease)


def _give_back(tx: Transaction, context: Context, runner_id: UUID, running: set[UUID]) -> None:
    """A new process of a runner: attempts that it does not hold are returned (not begun) or lost."""
    gone = [row for row in _live(tx, context, runner_id) if row.id not in running]
    _lose(tx, context, gone, "the runner restarted without it")


def _end_missing(tx: Transaction, context: Context, request: messages.PollRequest, lost: set[UUID]) -> None:
    """End what the runner had and does not hold any more.

    It was asked for after it had been accepted, so no word of it can be under way: a runner forgets an attempt when
    the server has answered its last event, and that answer may have been that the event was refused.
    """
    row = _row(tx, context, request.runner_id)
    if row is None or row.incarnation != request.incarnation:
        return  # another process has registered since, and has said what it holds
    gone = [live for live in _live(tx, context, row.id) if live.id in lost and live.state != "assigned"]
    _lose(tx, context, gone, f"runner {row.name} does not hold it any more")


def _lose(tx: Transaction, context: Context, gone: Sequence[Any], why: str) -> None:
    batch = Batch(tx, context.project_id, context.settings, context.ids)
    batch.load_jobs(row.job_id for row in gone)
    for row in gone:
        job = batch.jobs[row.job_id]
        if job.attempt != row.number or job.state not in job_table.LIVE_ATTEMPT:
            continue  # it ended before its run was locked
        event = job_table.Returned(row.number) if job.state == "assigned" else job_table.Lost(row.number)
        batch.job(row.job_id, event, Facts(detail=why))
    batch.store()


def _look(
    tx: Transaction, context: Context, request: messages.PollRequest, *, held: bool
) -> tuple[Any, int, messages.Commands, Sequence[Any]]:
    """The runner, the database's time (leases are kept by that, whatever this server's clock says), its commands, and
    its live attempts."""
    row = _row(tx, context, request.runner_id)
    if row is None:
        return None, tx.now, messages.Commands(), ()
    live = list(_live(tx, context, request.runner_id))
    return row, tx.now, _commands(tx, context, request, live, held=held), live


def _live(tx: Transaction, context: Context, runner_id: UUID) -> Sequence[Any]:
    return tx.rows(_SELECT_LIVE, {"project": context.project_id, "runner": runner_id})


_STOPPED_BY = {"stop": ("assigned", "starting", "running"), "abort": ("assigned", "starting", "running", "saving")}
"""The states of an attempt in which its runner does something about a stop or an abort: only that ends a last save."""


def _commands(
    tx: Transaction, context: Context, request: messages.PollRequest, live: Sequence[Any], *, held: bool
) -> messages.Commands:
    known = {item.attempt_id: item for item in request.known}
    assign: list[UUID] = []
    recall: list[UUID] = []
    stop: list[messages.Stop] = []
    ask: list[UUID] = []
    for row in live:
        mine = known.pop(row.id, None)
        if mine is None:
            (assign if row.state == "assigned" else ask).append(row.id)
        asked = row.intent or ("stop" if row.outcome == "timeout" and row.job_state == "running" else "")
        if not asked:
            continue
        if row.state == "assigned" and (mine is None or mine.state == "assigned"):
            recall.append(row.id)
        # A held poll may know a job as assigned, or not at all, that has started since: its runner keeps an early stop
        # until then, and passes over what it does not hold.
        elif held if mine is None else mine.stop != asked and mine.state in _STOPPED_BY[asked]:
            stop.append(messages.Stop(attempt_id=row.id, abort=asked == "abort"))
    rest = [attempt_id for attempt_id, item in known.items() if item.state not in messages.ENDS_BY_ITSELF]
    over = _existing(tx, context, rest) if rest else set[UUID]()
    return messages.Commands(
        assign=assignments.build(tx, context, assign) if assign else (),
        recall=tuple(recall),
        stop=tuple(stop),
        kill=tuple(attempt_id for attempt_id in rest if attempt_id in over),
        orphaned=tuple(attempt_id for attempt_id in rest if attempt_id not in over),
        ask=tuple(ask),
    )


def _existing(tx: Transaction, context: Context, ids: list[UUID]) -> set[UUID]:
    return {row.id for row in tx.rows(_SELECT_ATTEMPTS, {"project": context.project_id, "ids": ids})}


def _report(
    tx: Transaction, context: Context, request: messages.EventsRequest
) -> tuple[list[Answer], tuple[messages.Assignment, ...]]:
    """Apply the events and, where settings say so, fill the room that they made: the answer brings the next jobs."""
    answers = _apply(tx, context, request.events)
    if not context.settings.place_on_report or not tx.notifies("place") or not may_place(tx, context):
        return answers, ()
    placed = place_in(tx, context)
    if not placed.more:
        tx.withdraw("place")
    mine = [attempt_id for attempt_id, runner_id in placed.attempts if runner_id == request.runner_id]
    # A poll that is held need not say the same again; should this answer be lost, the next poll does.
    tx.withdraw(f"runner:{request.runner_id.hex}")
    return answers, assignments.build(tx, context, mine) if mine else ()


def _apply(tx: Transaction, context: Context, events: Sequence[messages.AttemptEvent]) -> list[Answer]:
    ids = list({event.attempt_id for event in events})
    found = {row.id: row for row in tx.rows(_SELECT_ATTEMPTS, {"project": context.project_id, "ids": ids})}
    batch = Batch(tx, context.project_id, context.settings, context.ids)
    batch.load_jobs({row.job_id for row in found.values()})
    answers = [_apply_one(tx, context, batch, found.get(event.attempt_id), event) for event in events]
    batch.store()
    return answers


def _apply_one(tx: Transaction, context: Context, batch: Batch, attempt: Any, event: messages.AttemptEvent) -> Answer:
    if attempt is None:
        return Answer("rejected", f"attempt {event.attempt_id} is not known here (orphaned): its result is kept aside")
    job = (attempt.run_id, attempt.job_id, attempt.number)
    known = batch.jobs.get(attempt.job_id)
    if isinstance(event, messages.SnapshotTaken):
        if known is None or known.attempt != attempt.number or known.state not in job_table.LIVE_ATTEMPT:
            # Stored now, it would pass for newer than the last one.
            return Answer("ignored", f"attempt {attempt.number} is over")
        if lost := _lost(tx, context, event):
            return lost
        artifacts.record(tx, context, job, event.artifacts, at=event.at, live=True)
        tx.notify(f"run:{attempt.run_id.hex}")
        return Answer("applied")
    if isinstance(event, messages.MetricsLogged):
        owner = metrics.Owner(attempt.id, attempt.number, attempt.job_id, attempt.run_id)
        metrics.record(tx, context.project_id, owner, event.points)
        return Answer("applied")
    if isinstance(event, messages.Rejected):
        _exclude(batch, attempt, known)
    if isinstance(event, messages.Saved) and known is not None and known.state in job_table.LIVE_ATTEMPT:
        lost = _lost(tx, context, event) if known.attempt == attempt.number else None
        if lost is not None:
            return lost
    facts = _facts(event)
    if isinstance(event, messages.Started) and event.packages is not None:
        facts = replace(facts, packages=packages.keep(tx, context.project_id, event.packages))
    answer = batch.job(attempt.job_id, _domain_event(event, attempt.number), facts)
    if isinstance(event, messages.Saved) and answer.outcome == "applied":
        artifacts.record(tx, context, job, event.artifacts, at=event.at, live=False)
    return answer


def _lost(tx: Transaction, context: Context, event: messages.SnapshotTaken | messages.Saved) -> Answer | None:
    """What to answer where a snapshot is not in the store: one told of long after it was saved may be collected."""
    lacking = hold_saved(tx, context, [item.manifest_id for item in event.artifacts])
    if not lacking:
        return None
    paths = ", ".join(item.path for item in event.artifacts if item.manifest_id in lacking)
    return Answer("rejected", f"what was saved of {paths} is not in the store: save it again", save_again=True)


def _exclude(batch: Batch, attempt: Any, known: Any) -> None:
    """A runner that rejected a job is not given it again."""
    if known is not None and known.state == "assigned" and known.runner_id is not None:
        excluded: list[bytes] = msgspec.msgpack.decode(known.excluded) if known.excluded else []
        known.excluded = msgspec.msgpack.encode([*excluded, known.runner_id.bytes])


def _domain_event(event: messages.AttemptEvent, number: int) -> job_table.AttemptEvent:
    match event:
        case messages.Accepted():
            return job_table.Accepted(number)
        case messages.Rejected():
            return job_table.Rejected(number)
        case messages.Recalled():
            return job_table.Returned(number, recalled=True)
        case messages.Started():
            return job_table.Started(number)
        case messages.SetupFailed():
            return job_table.SetupFailed(number)
        case messages.Exited():
            return _exited(event, number)
        case messages.Saved():
            return job_table.Saved(number, _exited(event.exit, number) if event.exit is not None else None)
        case messages.SaveRefused():
            return job_table.SaveFailed(number)
        case messages.SnapshotTaken() | messages.MetricsLogged():
            raise AssertionError("what moves no state is recorded before")


def _exited(event: messages.Exited, number: int) -> job_table.Exited:
    return job_table.Exited(number, event.exit_code, event.oom, event.aborted)


def _facts(event: messages.AttemptEvent) -> Facts:
    match event:
        case messages.Rejected():
            return Facts(at=event.at, detail=event.detail)
        case messages.SetupFailed() | messages.SaveRefused():
            return Facts(
                at=event.at, detail=event.detail,
                log_length=event.log_length or None, log_incomplete=event.log_incomplete or None,
            )  # fmt: skip
        case messages.Exited():
            return Facts(
                at=event.at, signal=event.signal, oom=event.oom or None, detail=event.detail or None,
                log_length=event.log_length, log_incomplete=event.log_incomplete or None,
            )  # fmt: skip
        case messages.Saved():
            exited = event.exit or messages.Exited(attempt_id=event.attempt_id, at=event.at)
            return Facts(
                at=event.at, signal=exited.signal, oom=exited.oom or None,
                log_length=event.log_length, log_incomplete=event.log_incomplete or None,
                save_warnings=kept_warnings(event.warnings),
            )  # fmt: skip
        case _:
            return Facts(at=event.at)


_RUNNER = select(runners).where(
    runners.c.project_id == bindparam("project", type_=Id), runners.c.id == bindparam("runner", type_=Id)
)
_SELECT_RUNNER = Prepared(_RUNNER)
_LOCK_RUNNER = Prepared(_RUNNER.with_for_update())
_SELECT_ATTEMPTS = Prepared(
    select(attempts.c.id, attempts.c.job_id, attempts.c.run_id, attempts.c.number).where(
        attempts.c.project_id == bindparam("project", type_=Id), attempts.c.id.in_(bindparam("ids", expanding=True))
    )
)
_SELECT_LIVE = Prepared(
    select(
        attempts.c.id, attempts.c.job_id, attempts.c.run_id, attempts.c.number, attempts.c.state,
        attempts.c.save_problem,
        jobs.c.intent, jobs.c.state.label("job_state"), jobs.c.outcome,
    )
    .join(jobs, and_(jobs.c.project_id == attempts.c.project_id, jobs.c.id == attempts.c.job_id))
    .where(
        attempts.c.project_id == bindparam("project", type_=Id),
        attempts.c.runner_id == bindparam("runner", type_=Id),
        attempts.c.state != "ended",
    )
    .order_by(attempts.c.id)
)  # fmt: skip
