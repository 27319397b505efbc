"""The runners' routes, in msgpack, from registration to farewell."""

from __future__ import annotations

import threading
import time
import uuid
from typing import Any, TypeVar
from uuid import UUID

import msgspec
import pytest

from dstack.domain.resources import Capacity
from dstack.protocol import messages
from tests.contract.api.test_routes import submitted
from tests.support.http import Asked

T = TypeVar("T")
CAPACITY = Capacity(cpu=2, memory=8 << 30)


def call(asked: Asked, path: str, message: Any, kind: type[T]) -> T:
    response = asked.client.post(
        f"/rpc/v1/{path}",
        content=messages.encode(message),
        headers={messages.PROTOCOL_HEADER: str(messages.PROTOCOL)},
    )
    assert response.status_code == 200, response.content
    assert response.headers["content-type"] == "application/msgpack"
    return msgspec.msgpack.decode(response.content, type=kind)


def register(asked: Asked, **more: Any) -> tuple[messages.RegisterReply, uuid.UUID]:
    incarnation = uuid.uuid4()
    request = messages.RegisterRequest(
        incarnation=incarnation, name="far", version="0", capacity=CAPACITY, slots=2, pythons={"3.11": "/p"}, **more
    )
    return call(asked, "register", request, messages.RegisterReply), incarnation


def test_a_whole_life(asked: Asked) -> None:
    reply, incarnation = register(asked)
    assert reply.deployment_id == asked.world.context.deployment_id
    assert reply.heartbeat == asked.world.settings.heartbeat
    me: dict[str, Any] = {"runner_id": reply.runner_id, "incarnation": incarnation}
    name = submitted(asked, "prepare")
    asked.world.place()
    commands = call(asked, "poll", messages.PollRequest(**me, wait=0), messages.Commands)
    (assignment,) = commands.assign
    assert (assignment.job_name, assignment.project, assignment.spec.artifacts) == ("prepare", "main", ("data",))
    key = assignment.attempt_id
    at = asked.world.clock.now()
    log = messages.LogChunk(attempt_id=key, offset=0, data=b"hello\n", times=((0, at),))
    sent = call(asked, "logs", messages.LogsRequest(runner_id=reply.runner_id, chunks=(log,)), messages.LogsReply)
    assert sent.next_offsets == (6,)
    exited = messages.Exited(attempt_id=key, at=at, exit_code=0)
    saved = messages.SavedArtifact(path="data", manifest_id=b"m" * 32, content_id=b"c" * 32, files=1, size=2)
    unknown = messages.SnapshotTaken(attempt_id=key, at=at, artifacts=(saved,))
    [answer] = call(asked, "events", messages.EventsRequest(**me, events=(unknown,)), messages.EventsReply).answers
    assert (answer.outcome, answer.save_again) == ("rejected", True), "what it tells of is not in the store"
    asked.world.know(saved.manifest_id)
    events = messages.EventsRequest(
        **me,
        events=(
            messages.Accepted(attempt_id=key, at=at),
            messages.Started(attempt_id=key, at=at, pid=7),
            exited,
            messages.Saved(attempt_id=key, at=at, exit=exited, artifacts=(saved,), log_length=6),
            messages.Started(attempt_id=uuid.uuid4(), at=at),
        ),
    )
    answers = call(asked, "events", events, messages.EventsReply).answers
    assert [answer.outcome for answer in answers] == ["applied"] * 4 + ["rejected"]
    run = asked.get(f"runs/{name}")
    assert (run["status"], run["jobs"][0]["log_length"], run["jobs"][0]["runner"]) == ("done", 6, "far")
    assert asked.frames(name)[0][1] == b"hello\n"
    call(asked, "goodbye", messages.Goodbye(**me), messages.Commands)
    assert call(asked, "poll", messages.PollRequest(**me, wait=0), messages.Commands).register


def test_a_poll_is_held_until_there_is_something_to_say(asked: Asked) -> None:
    reply, incarnation = register(asked)
    request = messages.PollRequest(runner_id=reply.runner_id, incarnation=incarnation, wait=20)
    found: list[messages.Commands] = []
    began = time.monotonic()
    poll = threading.Thread(target=lambda: found.append(call(asked, "poll", request, messages.Commands)))
    poll.start()
    poll.join(0.2)
    assert poll.is_alive()
    submitted(asked, "prepare")
    asked.world.place()
    poll.join(15)
    assert time.monotonic() - began < 15
    assert [item.job_name for item in found[0].assign] == ["prepare"]


def test_a_held_poll_hears_of_a_stop(asked: Asked) -> None:
    reply, incarnation = register(asked)
    me: dict[str, Any] = {"runner_id": reply.runner_id, "incarnation": incarnation}
    name = submitted(asked, "prepare")
    asked.world.place()
    (assignment,) = call(asked, "poll", messages.PollRequest(**me, wait=0), messages.Commands).assign
    at = asked.world.clock.now()
    started = messages.Started(attempt_id=assignment.attempt_id, at=at)
    call(asked, "events", messages.EventsRequest(**me, events=(started,)), messages.EventsReply)
    known = messages.KnownAttempt(attempt_id=assignment.attempt_id, state="running")
    found: list[messages.Commands] = []
    request = messages.PollRequest(**me, known=(known,), wait=20)
    poll = threading.Thread(target=lambda: found.append(call(asked, "poll", request, messages.Commands)))
    poll.start()
    asked.post(f"runs/{name}/stop", {"abort": True})
    poll.join(15)
    assert found[0].stop == (messages.Stop(attempt_id=assignment.attempt_id, abort=True),)


def test_what_a_held_poll_left_out_is_asked_for_when_it_ends(asked: Asked) -> None:
    """Not at once: the poll may be older than the attempt, and a runner that knows no such question would spin."""
    reply, incarnation = register(asked)
    me: dict[str, Any] = {"runner_id": reply.runner_id, "incarnation": incarnation}
    submitted(asked, "prepare")
    asked.world.place()
    (assignment,) = call(asked, "poll", messages.PollRequest(**me, wait=0), messages.Commands).assign
    started = messages.Started(attempt_id=assignment.attempt_id, at=asked.world.clock.now())
    call(asked, "events", messages.EventsRequest(**me, events=(started,)), messages.EventsReply)
    found: list[messages.Commands] = []
    poll = threading.Thread(
        target=lambda: found.append(call(asked, "poll", messages.PollRequest(**me, wait=0.5), messages.Commands))
    )
    poll.start()
    poll.join(0.2)
    assert poll.is_alive()
    poll.join(15)
    assert found == [messages.Commands(ask=(assignment.attempt_id,))]


def test_a_server_that_ends_lets_its_polls_go(asked: Asked) -> None:
    reply, incarnation = register(asked)
    request = messages.PollRequest(runner_id=reply.runner_id, incarnation=incarnation, wait=20)
    found: list[messages.Commands] = []
    poll = threading.Thread(target=lambda: found.append(call(asked, "poll", request, messages.Commands)))
    poll.start()
    poll.join(0.1)
    asked.world.context.bus.publish_for_good("shutdown")
    poll.join(15)
    assert found == [messages.Commands()]


def test_an_unknown_runner_is_told_to_register(asked: Asked) -> None:
    stranger = messages.PollRequest(runner_id=uuid.uuid4(), incarnation=uuid.uuid4(), wait=20)
    assert call(asked, "poll", stranger, messages.Commands) == messages.Commands(register=True)


def test_fields_that_are_not_known_are_ignored(asked: Asked) -> None:
    reply, incarnation = register(asked)
    message = {
        "runner_id": str(reply.runner_id), "incarnation": str(incarnation), "wait": 0.0, "novelty": [1, {"a": 2}],
    }  # fmt: skip
    response = asked.client.post("/rpc/v1/poll", content=msgspec.msgpack.encode(message))
    assert response.status_code == 200
    assert msgspec.msgpack.decode(response.content, type=messages.Commands) == messages.Commands()


def test_polls_are_answered_well_within_a_lease(asked: Asked) -> None:
    assert asked.world.settings.poll_wait < asked.world.settings.lease / 2, "or leases would end while polls are held"


# --- logs --------------------------------------------------------------------------------------------------------


def begun(asked: Asked) -> tuple[dict[str, Any], UUID]:
    """A runner and an attempt that it has started."""
    reply, incarnation = register(asked)
    me: dict[str, Any] = {"runner_id": reply.runner_id, "incarnation": incarnation}
    submitted(asked, "prepare")
    asked.world.place()
    (assignment,) = call(asked, "poll", messages.PollRequest(**me, wait=0), messages.Commands).assign
    assert report(asked, me, messages.Started(attempt_id=assignment.attempt_id, at=0)) == "applied"
    return me, assignment.attempt_id


def report(asked: Asked, me: dict[str, Any], event: messages.AttemptEvent) -> str:
    (answer,) = call(asked, "events", messages.EventsRequest(**me, events=(event,)), messages.EventsReply).answers
    return answer.outcome


def ship(asked: Asked, me: dict[str, Any], *chunks: messages.LogChunk) -> tuple[int, ...]:
    request = messages.LogsRequest(runner_id=me["runner_id"], chunks=chunks)
    return call(asked, "logs", request, messages.LogsReply).next_offsets


def chunk(attempt_id: UUID, offset: int, data: bytes, *, time: int = 0) -> messages.LogChunk:
    return messages.LogChunk(attempt_id=attempt_id, offset=offset, data=data, times=((offset, time),))


def ends(attempt_id: UUID, length: int) -> dict[str, messages.AttemptEvent]:
    """Events that end an attempt whose log has `length` bytes."""
    exited = messages.Exited(attempt_id=attempt_id, at=0, exit_code=0)
    return {
        "saved": messages.Saved(attempt_id=attempt_id, at=0, exit=exited, log_length=length),
        "refused": messages.SaveRefused(attempt_id=attempt_id, at=0, detail="full", log_length=length),
        "aborted": messages.Exited(attempt_id=attempt_id, at=0, exit_code=143, aborted=True, log_length=length),
    }


@pytest.mark.parametrize("end", ["saved", "refused", "aborted"])
def test_the_last_event_of_an_attempt_seals_its_log(asked: Asked, end: str) -> None:
    me, key = begun(asked)
    logs = asked.world.context.logs
    assert ship(asked, me, chunk(key, 0, b"all of it\n")) == (10,)
    if end == "refused":
        report(asked, me, messages.Exited(attempt_id=key, at=0, exit_code=0))
    assert not logs.read_now(key).sealed
    assert report(asked, me, ends(key, 10)[end]) == "applied"
    assert logs.read_now(key).sealed
    assert ship(asked, me, chunk(key, 3, b" of it\n")) == (10,), "what is there is there"
    assert ship(asked, me, chunk(key, 10, b"more"), chunk(key, 9, b"\nmore")) == (-1, -1)
    assert logs.read_now(key).data == b"all of it\n"
    assert report(asked, me, ends(key, 10)[end]) == "ignored", "told again, as after a lost answer"


@pytest.mark.parametrize("end", ["saved", "aborted"])
def test_what_printed_nothing_leaves_no_file(asked: Asked, end: str) -> None:
    me, key = begun(asked)
    assert report(asked, me, ends(key, 0)[end]) == "applied"
    assert list(asked.world.context.settings.logs.glob(f"{key.hex}.*")) == []


def test_a_refused_end_seals_nothing(asked: Asked) -> None:
    me, key = begun(asked)
    assert report(asked, me, messages.Saved(attempt_id=key, at=0)) == "rejected"
    assert ship(asked, me, chunk(key, 0, b"more")) == (4,)


def test_a_stream_that_cannot_be_taken_costs_the_others_nothing(asked: Asked) -> None:
    me, key = begun(asked)
    other, over = begun(asked)
    assert ship(asked, other, chunk(over, 0, b"all")) == (3,)
    report(asked, other, ends(over, 3)["saved"])
    found = ship(
        asked,
        me,
        chunk(uuid.uuid4(), 0, b"of no attempt"),
        chunk(key, 0, b"one"),
        chunk(over, 3, b"sealed"),
        chunk(key, -1, b"before the beginning"),
        chunk(key, 3, b"in no year", time=2**63),
        chunk(key, 3, b"two"),
    )
    assert found == (-1, 3, -1, -1, -1, 6)
    assert asked.world.context.logs.read_now(key).data == b"onetwo"
