"""Saving while the store refuses (F19): an object store that answers 507 or 403 is waited for, and it is said why."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest

from dstack.client.api import Unreachable
from dstack.domain.ports import SystemClock
from dstack.protocol import messages
from dstack.protocol.messages import Assignment
from dstack.runner.saving import ArtifactSaver, FinalSave
from dstack.runner.settings import Settings
from dstack.sdk.blobs import Buffer
from dstack.snapshots.blobs.memory import MemoryBlobStore
from dstack.snapshots.errors import StoreRefused
from dstack.snapshots.restore import restore
from dstack.snapshots.store import SnapshotStore
from tests.support.stores import RecordingCatalog

DEADLINE = 30.0


class Refusing(MemoryBlobStore):
    """Takes nothing while `answer` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.answer: Exception | None = None

    def put(self, key: str, data: Buffer | Path) -> bool:
        if self.answer is not None:
            raise self.answer
        return super().put(key, data)


class Scene:
    """A job's folder, the saver of its artifact `out`, and what it reported."""

    def __init__(self, folder: Path, save_deadline: float = DEADLINE, path: str = "out") -> None:
        self.blobs = Refusing()
        self.catalog = RecordingCatalog([])
        self.store = SnapshotStore(self.blobs, self.catalog)
        self.on_report: Callable[[], None] = lambda: None
        self.applied: list[messages.AttemptEvent] = []
        """The events whose snapshots are in the store."""
        self.events: list[messages.AttemptEvent] = []
        self.out = folder / "work" / path
        self.out.mkdir(parents=True)
        settings = Settings(home=folder, quiet_period=0.05, max_interval=0.2, save_retry=0.05, retry_last=0.05)
        shop: Any = SimpleNamespace(settings=settings, clock=SystemClock(), store=self.store)
        spec = SimpleNamespace(artifacts=(path,), working_dir=".")
        assignment: Any = SimpleNamespace(attempt_id=UUID(int=1), spec=spec, save_deadline=save_deadline)
        self.saver = ArtifactSaver(shop, cast("Assignment", assignment), folder, self.report)

    def report(self, event: messages.AttemptEvent) -> asyncio.Future[messages.EventAnswer]:
        self.events.append(event)
        answer: asyncio.Future[messages.EventAnswer] = asyncio.get_running_loop().create_future()
        self.on_report()
        assert isinstance(event, messages.SnapshotTaken)
        if self.catalog.missing([item.manifest_id for item in event.artifacts]):
            answer.set_result(messages.EventAnswer(outcome="rejected", save_again=True))
        else:
            self.applied.append(event)
            answer.set_result(messages.EventAnswer(outcome="applied"))
        return answer

    def collect(self) -> None:
        """All that was saved goes, as where nobody referred to it for long."""
        self.catalog.forget(list(self.catalog.chunks))
        self.blobs.delete([info.key for info in self.blobs.list("packs/")])

    async def until(self, look: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not look():  # noqa: ASYNC110 - the saver tells what is in its way by an attribute that polls read
                await asyncio.sleep(0.01)


ANSWERS = [
    (StoreRefused("the store did not take packs/ab/cd: 507 no room left in the bucket"), "507 no room left"),
    (StoreRefused("the store did not take packs/ab/cd: 403 the signature is not valid"), "403 the signature"),
]


@pytest.mark.parametrize(("answer", "said"), ANSWERS, ids=["507", "403"])
def test_snapshots_pause_and_go_on(tmp_path: Path, answer: Exception, said: str) -> None:
    async def play() -> None:
        scene = Scene(tmp_path)
        scene.blobs.answer = answer
        scene.saver.begin()
        # Written again and again: a change before the folder is watched is seen with the next look only.
        await scene.until(lambda: (scene.out / "file").write_bytes(b"content") and scene.saver.problem)
        assert scene.saver.problem.startswith("takes no snapshots now: store unavailable: ")
        assert said in scene.saver.problem
        assert scene.events == []
        scene.blobs.answer = None  # and nothing is written any more: it goes on by itself
        await scene.until(lambda: scene.events)
        [event] = scene.events
        assert isinstance(event, messages.SnapshotTaken)
        assert (event.artifacts[0].files, event.artifacts[0].size) == (1, 7)
        assert scene.saver.problem == ""
        await asyncio.to_thread(scene.saver.stop)

    asyncio.run(play())


@pytest.mark.parametrize(("answer", "said"), ANSWERS, ids=["507", "403"])
def test_the_last_save_waits(tmp_path: Path, answer: Exception, said: str) -> None:
    async def play() -> None:
        scene = Scene(tmp_path)
        scene.saver.begin()
        scene.blobs.answer = answer
        (scene.out / "file").write_bytes(b"content")
        saving = asyncio.create_task(scene.saver.final())
        await scene.until(lambda: scene.saver.problem.startswith("finishing: store unavailable: "))
        assert said in scene.saver.problem
        scene.blobs.answer = None
        saved: FinalSave = await saving
        assert (saved.problem, [item.files for item in saved.artifacts], scene.saver.problem) == (None, [1], "")

    asyncio.run(play())


def test_until_the_deadline_and_no_longer(tmp_path: Path) -> None:
    async def play() -> None:
        scene = Scene(tmp_path, save_deadline=0.2)
        scene.saver.begin()
        scene.blobs.answer = ANSWERS[0][0]
        (scene.out / "file").write_bytes(b"content")
        saved = await scene.saver.final()
        assert saved.problem is not None
        assert "507 no room left" in saved.problem
        assert saved.artifacts == ()

    asyncio.run(play())


def test_a_server_that_is_away_is_no_problem_to_be_told(tmp_path: Path) -> None:
    """It would hear of it only once it is back."""

    async def play() -> None:
        scene = Scene(tmp_path)
        scene.saver.begin()
        scene.blobs.answer = Unreachable("nobody answers")
        (scene.out / "file").write_bytes(b"content")
        saving = asyncio.create_task(scene.saver.final())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await asyncio.shield(saving)
        assert scene.saver.problem == ""
        scene.blobs.answer = None
        assert (await saving).problem is None

    asyncio.run(play())


def test_a_snapshot_that_is_not_there_any_more_is_saved_and_told_again(tmp_path: Path) -> None:
    """Its report took so long that the store has collected what nobody referred to. Nothing is written any more, yet
    a later report tells of the same files, which are in the store by then."""

    async def play() -> None:
        scene = Scene(tmp_path)

        def collect_once() -> None:
            if len(scene.events) == 1:
                scene.collect()

        scene.on_report = collect_once
        (scene.out / "file").write_bytes(b"content")
        os.utime(scene.out / "file", (1, 1))
        scene.saver.begin()
        # Touched again and again, as above; it stays what it was, so that nothing but the wish makes a second report.
        await scene.until(lambda: os.utime(scene.out / "file", (1, 1)) or scene.events)
        await scene.until(lambda: scene.applied)
        await asyncio.to_thread(scene.saver.stop)
        told = scene.applied[0]
        assert isinstance(told, messages.SnapshotTaken)
        assert told is not scene.events[0]
        restore(scene.store, told.artifacts[0].manifest_id, tmp_path / "got")
        assert (tmp_path / "got" / "file").read_bytes() == b"content"

    asyncio.run(play())


def test_the_last_save_can_be_done_again(tmp_path: Path) -> None:
    """As an attempt does when the server says that what was saved is not in the store."""

    async def play() -> None:
        scene = Scene(tmp_path)
        scene.saver.begin()
        (scene.out / "deep").mkdir()
        (scene.out / "deep" / "file").write_bytes(b"content" * 1000)
        first = await scene.saver.final()
        scene.collect()
        second = await scene.saver.final()
        assert [item.manifest_id for item in first.artifacts] == [item.manifest_id for item in second.artifacts]
        restore(scene.store, second.artifacts[0].manifest_id, tmp_path / "got")
        assert (tmp_path / "got" / "deep" / "file").read_bytes() == b"content" * 1000

    asyncio.run(play())


@pytest.mark.parametrize("name", ["a/out", "a"], ids=["the folder", "the one above it"])
def test_a_folder_that_may_not_be_read_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """No process is left that could change it: neither a silent success, nor tries until the deadline."""
    real = os.open
    closed = tmp_path / "work" / name

    def refuse(path: Any, *rest: Any, **named: Any) -> int:
        if isinstance(path, Path) and path.is_relative_to(closed):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *rest, **named)

    async def play() -> None:
        scene = Scene(tmp_path, path="a/out")
        monkeypatch.setattr(os, "open", refuse)
        monkeypatch.setattr(os, "access", lambda path, _: not path.is_relative_to(closed))
        scene.saver.begin()
        async with asyncio.timeout(DEADLINE / 2):
            saved = await scene.saver.final()
        assert saved.artifacts == ()
        assert saved.problem is not None
        assert saved.problem.startswith(f"a/out was not saved: the job left the folder {name} so that ")
        assert saved.problem.endswith(f"(Permission denied). Let the job end with: chmod -R a+rX {name}")

    asyncio.run(play())


def test_a_folder_that_cannot_be_made_anew_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job closed the folder above its own, in which nothing can be seen."""

    def refuse(path: Path, **_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    async def play() -> None:
        scene = Scene(tmp_path)
        scene.saver.begin()
        scene.out.rmdir()
        monkeypatch.setattr(Path, "mkdir", refuse)
        saved = await scene.saver.final()
        assert saved.problem is not None
        assert saved.artifacts == ()

    asyncio.run(play())


def test_an_abort_ends_the_wait_for_the_store(tmp_path: Path) -> None:
    async def play() -> None:
        scene = Scene(tmp_path, save_deadline=86400.0)
        scene.blobs.answer = ANSWERS[0][0]
        scene.saver.begin()
        (scene.out / "file").write_bytes(b"content")
        saving = asyncio.create_task(scene.saver.final())
        await scene.until(lambda: scene.saver.problem.startswith("finishing: "))
        scene.saver.abandon()
        async with asyncio.timeout(DEADLINE / 2):
            assert await saving == FinalSave(problem="it was aborted before all of it was saved")

    asyncio.run(play())


def test_an_abort_ends_a_save_under_way(tmp_path: Path) -> None:
    """A thread cannot be interrupted: it sees it with what it reads next."""

    async def play() -> None:
        scene = Scene(tmp_path)
        scene.saver.begin()
        (scene.out / "file").write_bytes(b"content")
        await asyncio.to_thread(scene.saver.stop)
        reached = scene.store.missing

        def missing(*found: Any) -> Any:
            scene.saver.abandon()
            return reached(*found)

        scene.store.missing = missing  # type: ignore[method-assign]
        for number in range(20):
            (scene.out / f"file {number}").write_bytes(os.urandom(4 << 20))
        assert await scene.saver.final() == FinalSave(problem="it was aborted before all of it was saved")

    asyncio.run(play())
