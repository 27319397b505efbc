"""What an attempt saves when its process has ended, and what becomes of it where that does not reach the server."""

from __future__ import annotations

import asyncio
import threading
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from dstack.protocol import messages
from dstack.runner.attempt import Attempt
from dstack.runner.saving import ArtifactSaver, FinalSave
from tests.support.attempts import ENDS, Bench, until


def test_a_line_that_finds_no_room_does_not_fail_a_saved_job(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    async def warned(_: ArtifactSaver) -> FinalSave:
        return FinalSave(warnings=("a folder was made anew",))

    monkeypatch.setattr("dstack.runner.attempt.append_to", full)
    monkeypatch.setattr(ArtifactSaver, "final", warned)

    async def course() -> None:
        attempt = bench.attempt()
        attempt.begin()
        await bench.over(attempt)
        assert bench.server.ends() == [messages.Saved]

    asyncio.run(course())


def test_what_is_not_in_the_store_any_more_is_saved_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    saves: list[bool] = []

    async def course() -> None:
        attempt = bench.attempt()

        async def save(_: ArtifactSaver) -> FinalSave:
            # What would be saved is there still: the folder goes with the answer that ends it.
            saves.append((bench.workshop.settings.folder / "attempts" / attempt.assignment.attempt_id.hex).is_dir())
            return FinalSave()

        monkeypatch.setattr(ArtifactSaver, "final", save)
        bench.server.save_again_times = 2
        attempt.begin()
        await bench.over(attempt)
        assert bench.server.ends() == [messages.Saved] * 3
        assert saves == [True] * 3
        assert not list((bench.workshop.settings.folder).glob("orphaned/*")), "it was not refused for good"

    asyncio.run(course())


@pytest.mark.parametrize("fails", [False, True])
def test_what_the_server_refuses_is_set_aside_while_the_agent_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """An unmount writes all of it to the disk. What cannot be set aside stays where it is, and is not removed."""
    threads: list[threading.Thread] = []

    def put(_: Path, __: Path) -> None:
        threads.append(threading.current_thread())
        if fails:
            raise OSError(28, "No space left on device")

    def send(event: messages.AttemptEvent, **_: object) -> asyncio.Future[messages.EventAnswer]:
        future: asyncio.Future[messages.EventAnswer] = asyncio.get_running_loop().create_future()
        future.set_result(messages.EventAnswer(outcome="rejected" if isinstance(event, messages.Saved) else "applied"))
        sent.append(event)
        return future

    sent: list[messages.AttemptEvent] = []
    monkeypatch.setattr("dstack.runner.leaving.set_aside", put)
    monkeypatch.setattr(bench.server, "send", send)

    async def course() -> None:
        attempt = bench.attempt()
        attempt.begin()
        await bench.over(attempt)
        bench.workshop.cleaner.shutdown()
        assert (
            bench.workshop.settings.folder / "attempts" / attempt.assignment.attempt_id.hex / "spec.msgpack"
        ).exists()

    asyncio.run(course())
    assert [type(event) for event in sent if isinstance(event, ENDS)] == [messages.Saved]
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


class Capture:
    """In place of the one that reads folders: says when it is asked."""

    def __init__(self, said: list[str]) -> None:
        self._said = said

    def start(self) -> None:
        self._said.append("captures")

    def final(self) -> dict[str, object]:
        self._said.append("saves")
        return {}


@pytest.mark.parametrize("found", [True, False])
def test_nothing_is_saved_of_a_working_copy_that_is_out_of_sight(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, found: bool
) -> None:
    """It would be saved as empty. Everybody is told why; when its process has ended it is looked for once more."""
    said: list[str] = []

    async def lay_over_again(_: uuid.UUID, __: Path, pid: int) -> str:
        said.append("looks beside its process" if pid else "looks again")
        if pid or not found:
            raise OSError("the working copy of process 5 cannot be reached")
        return ""

    monkeypatch.setattr("dstack.runner.saving.LiveCapture", lambda *_, **__: Capture(said))
    cache = SimpleNamespace(release=lambda _: None)
    inputs = SimpleNamespace(hold=lambda *_: None, lay_over_again=lay_over_again, cache=cache)

    async def course() -> None:
        first = bench.attempt("wait")
        key = first.assignment.attempt_id
        first.begin()
        await until(lambda: first.state == "running")
        first._task.cancel()  # type: ignore[union-attr]  # as the end of the event loop does
        await bench.over(first)

        folder = bench.workshop.settings.folder / "attempts" / key.hex
        (folder / "work" / "out").mkdir(parents=True)
        (folder / "layers").mkdir()
        bench.workshop.kept_inputs = cast(Any, inputs)
        spec = msgspec.structs.replace(first.assignment.spec, artifacts=("out",))
        again = Attempt(bench.workshop, msgspec.structs.replace(first.assignment, spec=spec), bench.gone.append)
        again.resume(bench.executor.processes[key])
        await until(lambda: bool(again.problem))
        assert again.problem == "takes no snapshots now: the working copy of process 5 cannot be reached"
        assert said == ["looks beside its process"]
        bench.executor.processes[key].go()
        await bench.over(again)

    asyncio.run(course())
    assert b"dstack: no artifacts can be saved now: the working copy of process 5 cannot be reached" in bench.logs.log
    [end] = [event for event in bench.server.events if isinstance(event, ENDS)]
    if found:
        assert isinstance(end, messages.Saved)
        assert said == ["looks beside its process", "looks again", "captures", "saves"]
    else:
        assert isinstance(end, messages.SaveRefused)
        assert end.detail == "the working copy of process 5 cannot be reached"
        assert said == ["looks beside its process", "looks again"]
