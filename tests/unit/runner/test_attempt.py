"""How an attempt ends, whatever comes when: with one report to the server, and gone from its agent."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from dstack.domain.resources import Capacity
from dstack.protocol import messages
from dstack.runner.attempt import Attempt
from dstack.runner.executors.fake import FakeExecutor
from dstack.runner.executors.interface import Process, Survivors
from dstack.runner.folders import write_environment
from dstack.runner.saving import ArtifactSaver, FinalSave
from dstack.runner.settings import Settings
from dstack.runner.slots import Slots
from dstack.runner.workshop import Workshop
from dstack.sdk.provider import JobSpec
from dstack.snapshots.restore import Restored

ENDS = (messages.Recalled, messages.SetupFailed, messages.Saved, messages.SaveRefused)


class Clock:
    def now(self) -> int:
        return 1

    def monotonic(self) -> float:
        return 1.0


class Server:
    """Takes every event, and answers while it is `answering`."""

    def __init__(self) -> None:
        self.events: list[messages.AttemptEvent] = []
        self.answering = True
        self.save_again_times = 0
        """How often it still says that what was saved is not in the store."""

    def send(self, event: messages.AttemptEvent, **_: object) -> asyncio.Future[messages.EventAnswer]:
        future: asyncio.Future[messages.EventAnswer] = asyncio.get_running_loop().create_future()
        self.events.append(event)
        if isinstance(event, messages.Saved) and self.save_again_times:
            self.save_again_times -= 1
            future.set_result(messages.EventAnswer(outcome="rejected", save_again=True))
        elif self.answering:
            future.set_result(messages.EventAnswer(outcome="applied"))
        return future

    def ends(self) -> list[type]:
        return [type(event) for event in self.events if isinstance(event, ENDS)]


class Logs:
    def __init__(self) -> None:
        self.log = b""

    async def send(self, chunk: messages.LogChunk) -> int:
        self.log += chunk.data
        return chunk.offset + len(chunk.data)


class Watch:
    async def grown(self, path: Path, size: int) -> int:
        return await asyncio.Event().wait()

    def forget(self, path: Path) -> None:
        pass


class Environments:
    """Sets up for ever. `kept` of the real ones is itself."""

    broken = False

    def __init__(self) -> None:
        self.held: dict[uuid.UUID, str] = {}
        self.released: list[uuid.UUID] = []
        self.kept = self

    async def prepare(self, *_: object) -> None:
        await asyncio.Event().wait()

    def hold(self, attempt_id: uuid.UUID, key: str) -> None:
        self.held[attempt_id] = key

    def packages(self, attempt_id: uuid.UUID) -> tuple[str, ...] | None:
        return ("alpha==1.0",) if attempt_id in self.held else None

    async def release(self, attempt_id: uuid.UUID) -> None:
        self.released.append(attempt_id)
        if self.broken:
            raise OSError("its lock is gone")


class SlowStops(FakeExecutor):
    """A stop goes on for as long as the test wants, also after the process has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.stops = 0

    async def stop(self, process: Process, grace: float) -> Survivors:
        self.stops += 1
        found = await super().stop(process, grace)
        if grace:
            await asyncio.Event().wait()
        return found


class Bench:
    def __init__(self, folder: Path) -> None:
        self.server, self.executor, self.environments = Server(), SlowStops(), Environments()
        self.logs = Logs()
        settings = Settings(home=folder)
        settings.folder.mkdir()
        (settings.folder / "attempts").mkdir()
        self.slots = Slots(Capacity(1, 1 << 30, ()), 1)
        self.gone: list[Attempt] = []
        materialiser = SimpleNamespace(is_quick=lambda _: True, unpack=lambda *_: None)
        self.workshop = Workshop(
            settings=settings, clock=Clock(), executor=self.executor,
            environments=cast(Any, self.environments), slots=self.slots, events=cast(Any, self.server),
            logs=cast(Any, self.logs), secrets=cast(Any, None), watch=cast(Any, Watch()), store=cast(Any, None),
            materialiser=cast(Any, materialiser),
        )  # fmt: skip

    def attempt(self, *commands: str, argv: tuple[str, ...] = (), code: bytes | None = None) -> Attempt:
        spec = JobSpec(name="train", argv=argv, commands=() if argv else commands or ("exit 0",))
        assignment = messages.Assignment(
            attempt_id=uuid.uuid4(), number=1, job_id=uuid.uuid4(), run_name="calm-crab-1", workflow="train",
            job_name="train", project="main", spec=spec, code=code,
        )  # fmt: skip
        return Attempt(self.workshop, assignment, self.gone.append)

    async def over(self, attempt: Attempt) -> None:
        await until(lambda: attempt in self.gone)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 -- what is waited for has no event of its own
            await asyncio.sleep(0)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def run(course: Coroutine[Any, Any, None]) -> None:
    asyncio.run(course)


def test_one_recalled_in_the_breath_that_assigned_it_is_given_back(bench: Bench) -> None:
    """The server names a stopped job that no runner has yet for both: its task has not begun when it is cancelled."""

    async def course() -> None:
        attempt = bench.attempt()
        attempt.begin()
        attempt.recall()
        await bench.over(attempt)
        assert [type(event) for event in bench.server.events] == [messages.Recalled]
        assert not bench.executor.processes

    run(course())


def test_one_that_waits_for_room_is_given_back(bench: Bench) -> None:
    async def course() -> None:
        first, second = bench.attempt("wait"), bench.attempt()
        first.begin()
        second.begin()
        await until(lambda: first.state == "running")
        second.recall()
        await bench.over(second)
        assert bench.server.ends() == [messages.Recalled]
        await first.kill()

    run(course())


def test_an_abort_after_a_stop_does_not_cut_the_end_of_a_set_up_off(bench: Bench) -> None:
    async def course() -> None:
        attempt = bench.attempt(argv=("python", "train.py"))
        bench.server.answering = False
        attempt.begin()
        await until(lambda: attempt.state == "starting")
        attempt.ask_stop(abort=False)
        await asyncio.sleep(0)
        attempt.ask_stop(abort=True)
        await until(lambda: bool(bench.server.ends()))
        assert bench.server.ends() == [messages.SetupFailed]

    run(course())


def test_a_set_up_that_is_stopped_leaves_nothing_behind(bench: Bench) -> None:
    """What unpacks in a thread cannot be interrupted: the folder is removed after its last file."""
    begun, go_on = threading.Event(), threading.Event()

    def unpack(_: bytes, work: Path, stopped: Callable[[], bool]) -> None:
        begun.set()
        assert go_on.wait(30)
        assert stopped()
        work.mkdir(parents=True)
        (work / "late").write_text("a file")

    bench.workshop.materialiser = cast(
        Any, SimpleNamespace(is_quick=lambda _: False, measure=lambda _: Restored(1, 6), unpack=unpack)
    )

    async def course() -> None:
        attempt = bench.attempt(code=b"snapshot")
        attempt.begin()
        await asyncio.to_thread(begun.wait, 30)
        attempt.ask_stop(abort=False)
        for _ in range(10):
            await asyncio.sleep(0)
        go_on.set()
        await bench.over(attempt)
        assert bench.server.ends() == [messages.SetupFailed]
        bench.workshop.cleaner.shutdown()
        assert list((bench.workshop.settings.folder / "attempts").iterdir()) == []

    run(course())


def test_an_abort_while_a_stop_clears_up_is_still_reported(bench: Bench) -> None:
    """The process is gone already; the attempt waits for the stop, which the abort cancels."""

    async def course() -> None:
        attempt = bench.attempt("wait")
        attempt.begin()
        await until(lambda: attempt.state == "running")
        attempt.ask_stop(abort=False)
        process = bench.executor.processes[attempt.assignment.attempt_id]
        await process.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        attempt.ask_stop(abort=True)
        await bench.over(attempt)
        assert bench.executor.stops == 2
        assert next(event for event in bench.server.events if isinstance(event, messages.Exited)).exit_code == 143

    run(course())


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

    run(course())


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

    run(course())


def test_one_is_forgotten_whatever_fails_at_its_end(bench: Bench) -> None:
    async def course() -> None:
        bench.environments.broken = True
        attempt = bench.attempt()
        attempt.begin()
        await bench.over(attempt)
        assert bench.server.ends() == [messages.Saved]

    run(course())


def test_an_agent_that_ends_leaves_what_a_running_job_uses(bench: Bench) -> None:
    """And the next one, which adopts the job, holds its environment again and tells what is in it."""
    folder = bench.workshop.settings.folder / "attempts"

    async def course() -> None:
        attempt = bench.attempt("wait")
        key = attempt.assignment.attempt_id
        attempt.begin()
        await until(lambda: attempt.state == "running")
        write_environment(folder / key.hex, "abc")
        attempt._task.cancel()  # type: ignore[union-attr]  # as the end of the event loop does
        await bench.over(attempt)
        assert bench.environments.released == []

        again = Attempt(bench.workshop, attempt.assignment, bench.gone.append)
        process = bench.executor.processes[key]
        again.resume(process)
        assert bench.environments.held == {key: "abc"}
        await until(lambda: any(getattr(event, "packages", None) for event in bench.server.events))
        again.ask_stop(abort=True)
        await bench.over(again)
        assert bench.environments.released == [key]

    run(course())


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

    run(course())
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

    run(course())
    assert b"dstack: no artifacts can be saved now: the working copy of process 5 cannot be reached" in bench.logs.log
    [end] = [event for event in bench.server.events if isinstance(event, ENDS)]
    if found:
        assert isinstance(end, messages.Saved)
        assert said == ["looks beside its process", "looks again", "captures", "saves"]
    else:
        assert isinstance(end, messages.SaveRefused)
        assert end.detail == "the working copy of process 5 cannot be reached"
        assert said == ["looks beside its process", "looks again"]
