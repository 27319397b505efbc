"""Every message of a runner delivered twice (F10), and out of date: a real server behind its socket, and a runner made
by hand. The second delivery is answered like the first and has no effect."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any, TypeVar
from uuid import UUID, uuid4

import msgspec
import pytest

from dstack import embedded
from dstack.client.store import remote_store
from dstack.client.wire import SocketTransport
from dstack.domain.resources import Capacity
from dstack.protocol import messages
from dstack.snapshots.chunking import digest
from dstack.snapshots.interfaces import pack_key
from dstack.snapshots.packs import PackBuilder
from tests.faults.home import Home

T = TypeVar("T")
WORKFLOWS = """\
workflows:
  - name: job
    provider: bash
    artifacts: [out]
    commands: [echo never run here]
"""


class Runner:
    """Speaks the protocol, says what it is told to, and runs nothing."""

    def __init__(self, home: Home) -> None:
        holder = embedded.read_holder(home.folder)
        assert holder is not None
        self._transport = SocketTransport(holder["socket"])
        self.id = uuid4()
        self.incarnation = uuid4()

    def register(self, *running: UUID) -> messages.RegisterReply:
        request = messages.RegisterRequest(
            runner_id=self.id,
            incarnation=self.incarnation,
            name="by-hand",
            version="0",
            capacity=Capacity(cpu=4, memory=1 << 33),
            slots=4,
            running=running,
        )
        return self._call("register", request, messages.RegisterReply)

    def poll(self, *known: messages.KnownAttempt, wait: float = 0.0) -> messages.Commands:
        request = messages.PollRequest(runner_id=self.id, incarnation=self.incarnation, known=known, wait=wait)
        return self._call("poll", request, messages.Commands)

    def report(self, *events: messages.AttemptEvent) -> list[str]:
        request = messages.EventsRequest(runner_id=self.id, incarnation=self.incarnation, events=events)
        return [answer.outcome for answer in self._call("events", request, messages.EventsReply).answers]

    def log(self, *chunks: messages.LogChunk) -> tuple[int, ...]:
        request = messages.LogsRequest(runner_id=self.id, chunks=chunks)
        return self._call("logs", request, messages.LogsReply).next_offsets

    def close(self) -> None:
        self._transport.close()

    def _call(self, route: str, message: object, reply: type[T]) -> T:
        headers = {"content-type": "application/msgpack", messages.PROTOCOL_HEADER: str(messages.PROTOCOL)}
        body = messages.encode(message)
        answer = self._transport.request("POST", f"/rpc/v1/{route}", headers=headers, body=body)
        content = answer.read()
        assert answer.status == 200, content
        return msgspec.msgpack.decode(content, type=reply)


@pytest.fixture
def runner(home: Home) -> Iterator[Runner]:
    home.environment["DSTACK_SERVER_LOCAL_RUNNER"] = "0"
    home.write(WORKFLOWS)
    home.types("server", "start")
    made = Runner(home)
    made.register()
    yield made
    made.close()


@pytest.fixture
def assigned(home: Home, runner: Runner) -> messages.Assignment:
    """A job that the server has handed to the runner."""
    home.detached("job")
    return home.wait(lambda: runner.poll(wait=1.0).assign, "the job is assigned")[0]


def test_every_event_twice(home: Home, runner: Runner, assigned: messages.Assignment) -> None:
    attempt = assigned.attempt_id
    exited = messages.Exited(attempt_id=attempt, at=30, exit_code=0)
    events: list[messages.AttemptEvent] = [
        messages.Accepted(attempt_id=attempt, at=10),
        messages.Started(attempt_id=attempt, at=20, pid=7),
        messages.SnapshotTaken(attempt_id=attempt, at=25, artifacts=(artifact(home, 1),)),
        exited,
        messages.Saved(attempt_id=attempt, at=40, exit=exited, artifacts=(artifact(home, 2),)),
    ]
    for event in events:
        assert runner.report(event) == ["applied"]
        before = state(home)
        # A stored snapshot cannot be told from a new one by its state, only by what is stored.
        again = runner.report(event)
        assert again == (["applied"] if isinstance(event, messages.SnapshotTaken) else ["ignored"])
        assert unchanged(home, before)
    # And all of them once more, in one batch, when everything is over.
    before = state(home)
    assert runner.report(*events) == ["ignored"] * 5
    assert unchanged(home, before)
    [run] = home.runs()
    assert (run["status"], run["exit_code"], run["jobs"][0]["attempt"]) == ("done", 0, 1)
    assert [item["manifest_id"] for item in run["jobs"][0]["artifacts"]] == [artifact(home, 2).manifest_id.hex()]


@pytest.mark.parametrize("end", ["setup-failed", "recalled", "rejected"])
def test_every_other_end_twice(home: Home, runner: Runner, assigned: messages.Assignment, end: str) -> None:
    attempt = assigned.attempt_id
    made: dict[str, messages.AttemptEvent] = {
        "setup-failed": messages.SetupFailed(attempt_id=attempt, at=10, detail="no such interpreter"),
        "recalled": messages.Recalled(attempt_id=attempt, at=10),
        "rejected": messages.Rejected(attempt_id=attempt, at=10, detail="full"),
    }
    assert runner.report(made[end]) == ["applied"]
    # Given back, the job may be handed out again meanwhile: the second delivery is of an attempt that is over.
    assert runner.report(made[end]) == ["ignored"]
    assert runner.report(made[end], made[end]) == ["ignored", "ignored"]
    events = stored(home, f"SELECT count(*) FROM events WHERE event IN ('{end}', 'returned') AND attempt = 1")
    assert events == [(1,)]


def test_save_refused_twice(home: Home, runner: Runner, assigned: messages.Assignment) -> None:
    attempt = assigned.attempt_id
    runner.report(messages.Started(attempt_id=attempt, at=20), messages.Exited(attempt_id=attempt, at=30, exit_code=0))
    refused = messages.SaveRefused(attempt_id=attempt, at=40, detail="the store is full")
    assert runner.report(refused) == ["applied"]
    before = state(home)
    assert runner.report(refused) == ["ignored"]
    assert unchanged(home, before)
    [run] = home.runs()
    assert (run["status"], run["reason"], run["exit_code"]) == ("failed", "artifact-save", 121)


def test_log_chunks_twice_and_cut_anywhere(home: Home, runner: Runner, assigned: messages.Assignment) -> None:
    """A chunk that comes again, whole or in part, is answered with where the stream goes on."""
    text = b"".join(b"line %d\n" % number for number in range(50))

    def chunk(begin: int, end: int) -> messages.LogChunk:
        return messages.LogChunk(
            attempt_id=assigned.attempt_id, offset=begin, data=text[begin:end], times=((begin, 1_000_000 + begin),)
        )

    assert runner.log(chunk(0, 100)) == (100,)
    assert runner.log(chunk(0, 100)) == (100,)
    assert runner.log(chunk(50, 150), chunk(50, 150)) == (150, 150)
    assert runner.log(chunk(200, 250)) == (150,), "a gap is not stored: the server says where it goes on"
    assert runner.log(chunk(150, len(text)), chunk(0, 100)) == (len(text), len(text))
    [run] = home.runs()
    assert home.log(run["name"]) == {"job": text}
    unknown = messages.LogChunk(attempt_id=uuid4(), offset=0, data=b"x")
    assert runner.log(unknown) == (-1,)


def test_registered_and_polled_twice(home: Home, runner: Runner, assigned: messages.Assignment) -> None:
    """A registration made again is the same runner; a poll made again hands out the same attempt."""
    first, second = runner.register(assigned.attempt_id), runner.register(assigned.attempt_id)
    assert first == second
    assert first.runner_id == runner.id
    assert runner.poll().assign == runner.poll().assign == (assigned,)
    assert runner.poll(messages.KnownAttempt(attempt_id=assigned.attempt_id, state="assigned")).assign == ()
    assert stored(home, "SELECT count(*) FROM runners") == [(1,)]
    assert stored(home, "SELECT count(*) FROM attempts") == [(1,)]


def test_events_of_an_older_attempt(home: Home, runner: Runner, assigned: messages.Assignment) -> None:
    """Whatever a superseded attempt still says, its job does not move."""
    attempt = assigned.attempt_id
    runner.report(messages.Recalled(attempt_id=attempt, at=10))
    newer = home.wait(lambda: runner.poll(wait=1.0).assign, "the job is assigned again")[0]
    assert (newer.number, newer.job_id) == (2, assigned.job_id)
    exited = messages.Exited(attempt_id=attempt, at=30, exit_code=9)
    late: list[messages.AttemptEvent] = [
        messages.Accepted(attempt_id=attempt, at=10),
        messages.Started(attempt_id=attempt, at=20),
        messages.SnapshotTaken(attempt_id=attempt, at=25, artifacts=(artifact(home, 1),)),
        exited,
        messages.Saved(attempt_id=attempt, at=40, exit=exited, artifacts=(artifact(home, 1),)),
    ]
    before = state(home)
    assert runner.report(*late) == ["ignored"] * 5
    assert unchanged(home, before)
    commands = runner.poll(messages.KnownAttempt(attempt_id=attempt, state="running"))
    assert commands.kill == (attempt,)


def test_submitted_twice(home: Home, runner: Runner) -> None:
    """The same key is the same run, whoever asks."""
    submission: Any = {
        "workflow": "job",
        "args": [],
        "files": {".dstack/workflows.yaml": WORKFLOWS},
        "repository": {"key": "here", "name": "here"},
    }
    with home.api() as api:
        names = [api.submit(submission, key).get("name") for key in ("one", "one", "other")]
    assert names[0] == names[1] != names[2]
    assert len(home.runs()) == 2


def artifact(home: Home, number: int) -> messages.SavedArtifact:
    """One whose snapshot the store has; nobody looks into it."""
    builder = PackBuilder()
    chunk = bytes([number] * 100)
    builder.add(digest(chunk), chunk)
    data, index = builder.seal()
    with home.api() as api:
        store = remote_store(api)
        store.put(pack_key(index.pack_id), data)
        store.add([index])
    return messages.SavedArtifact(path="out", manifest_id=digest(chunk), content_id=digest(chunk), files=1, size=number)


def stored(home: Home, query: str) -> list[Any]:
    with closing(sqlite3.connect(home.folder / "server" / "dstack.db")) as connection:
        return connection.execute(query).fetchall()


TABLES = ("runs", "steps", "jobs", "events", "artifacts")


def state(home: Home) -> dict[str, list[Any]]:
    """Everything that messages of a runner may change, but for what it says too late."""
    found = {name: stored(home, f"SELECT * FROM {name}") for name in TABLES}
    columns = [row[1] for row in stored(home, "PRAGMA table_info(attempts)") if not row[1].startswith("late_")]
    return found | {"attempts": stored(home, f"SELECT {', '.join(columns)} FROM attempts")}


def unchanged(home: Home, before: dict[str, list[Any]]) -> bool:
    after = state(home)
    assert after == before, [name for name in after if after[name] != before[name]]
    return True
