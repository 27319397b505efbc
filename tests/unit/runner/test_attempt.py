"""How an attempt ends, whatever comes when: with one report to the server, and gone from its agent."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dstack.protocol import messages
from dstack.runner.attempt import Attempt
from dstack.runner.folders import write_environment
from dstack.runner.saving import ArtifactSaver, FinalSave
from dstack.snapshots.restore import Restored
from tests.support.attempts import Bench, until


def test_one_recalled_in_the_breath_that_assigned_it_is_given_back(bench: Bench) -> None:
    """The server names a stopped job that no runner has yet for both: its task has not begun when it is cancelled."""

    async def course() -> None:
        attempt = bench.attempt()
        attempt.begin()
        attempt.recall()
        await bench.over(attempt)
        assert [type(event) for event in bench.server.events] == [messages.Recalled]
        assert not bench.executor.processes

    asyncio.run(course())


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

    asyncio.run(course())


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

    asyncio.run(course())


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

    asyncio.run(course())


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

    asyncio.run(course())


def test_one_is_forgotten_whatever_fails_at_its_end(bench: Bench) -> None:
    async def course() -> None:
        bench.environments.broken = True
        attempt = bench.attempt()
        attempt.begin()
        await bench.over(attempt)
        assert bench.server.ends() == [messages.Saved]

    asyncio.run(course())


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

    asyncio.run(course())


def test_an_abort_ends_the_last_save(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    abandoned = asyncio.Event()

    async def save(_: ArtifactSaver) -> FinalSave:
        await abandoned.wait()
        return FinalSave(problem="it was aborted")

    monkeypatch.setattr(ArtifactSaver, "final", save)
    monkeypatch.setattr(ArtifactSaver, "abandon", lambda _: abandoned.set())

    async def course() -> None:
        attempt = bench.attempt()
        attempt.begin()
        await until(lambda: attempt.state == "saving")
        attempt.ask_stop(abort=False)
        await asyncio.sleep(0)
        assert not abandoned.is_set()
        attempt.ask_stop(abort=True)
        await bench.over(attempt)
        assert bench.server.ends() == [messages.SaveRefused]

    asyncio.run(course())
