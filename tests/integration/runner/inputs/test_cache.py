"""The cache of large inputs: each is fetched and kept once, whole or not there."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dstack.snapshots.restore import Restored, restore
from dstack.snapshots.store import SnapshotStore
from tests.support.inputs import Bench
from tests.support.trees import described


@pytest.mark.parametrize("bench", ["overlay", "reflink btrfs", "reflink xfs", "overlay btrfs"], indirect=True)
def test_the_second_job_copies_no_bytes(bench: Bench, data: Path) -> None:
    manifest_id, size = bench.save(data), (data / "big").stat().st_size
    one, _ = bench.begin(("data", manifest_id))
    reads = bench.store.verbs().count("get")
    free = free_after_sync(bench.settings.home)
    other, work = bench.begin(("data", manifest_id))
    assert free - free_after_sync(bench.settings.home) < size / 2
    assert (work / "data" / "big").read_bytes() == (data / "big").read_bytes()
    assert bench.store.verbs().count("get") == reads
    bench.end(one)
    bench.end(other)


def free_after_sync(folder: Path) -> int:
    os.sync()
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


@pytest.mark.parametrize("bench", ["overlay", "copy"], indirect=True)
def test_two_that_want_the_same_at_once_make_it_once(bench: Bench, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest_id = bench.save(data)
    assignments = [bench.assignment(("data", manifest_id)) for _ in range(4)]
    filled: list[Path] = []

    def counted(store: SnapshotStore, manifest_id: bytes, target: Path, *, stopped: Callable[[], bool]) -> Restored:
        filled.append(target)
        return restore(store, manifest_id, target, stopped=stopped)

    monkeypatch.setattr("dstack.runner.input_cache.restore", counted)

    async def all_at_once() -> list[Path]:
        return await asyncio.gather(*map(bench.lay_out, assignments))

    works = asyncio.run(all_at_once())
    assert all(described(work / "data") == described(data) for work in works)
    assert len(filled) == len(bench.entries()) == 1


def test_an_input_that_is_given_twice_is_there_once(bench: Bench, data: Path) -> None:
    manifest_id = bench.save(data)
    _, work = bench.begin(("data", manifest_id), ("data", manifest_id))
    assert described(work / "data") == described(data)
    assert len(bench.entries()) == 1


def test_files_at_two_places_are_kept_once(bench: Bench, data: Path) -> None:
    manifest_id = bench.save(data)
    _, work = bench.begin(("data", manifest_id), ("a/b/data", manifest_id))
    assert described(work / "data") == described(work / "a/b/data") == described(data)
    one, other = bench.entries()
    assert os.path.samefile(next(one.glob("tree/**/big")), next(other.glob("tree/**/big")))
    with open(work / "data" / "big", "ab") as file:
        file.write(b"more")
    assert described(work / "a/b/data") == described(data)


def test_a_job_that_is_cut_off_while_it_fills_the_cache_leaves_nothing(bench: Bench, data: Path) -> None:
    """… and the next one, which waited for it, fills it."""
    manifest_id = bench.save(data)
    first, second = (bench.assignment(("data", manifest_id)) for _ in range(2))
    reached, go_on = threading.Event(), threading.Event()
    get = bench.store.memory.get

    def slow(key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        reached.set()
        assert go_on.wait(30)
        return get(key, offset=offset, length=length)

    bench.shop.materialiser.measure(manifest_id)
    bench.store.memory.get = slow

    async def course() -> Path:
        cut = asyncio.create_task(bench.lay_out(first))
        assert await asyncio.to_thread(reached.wait, 30)
        waiting = asyncio.create_task(bench.lay_out(second))
        await asyncio.sleep(0)
        cut.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await cut
        return await waiting

    work = asyncio.run(course())
    assert described(work / "data") == described(data)
    bench.end(first)
    assert len(bench.entries()) == 1
    assert [path.name for path in bench.cache.root.iterdir()] == [bench.entries()[0].name]


@pytest.mark.parametrize("bench", ["copy"], indirect=True)
def test_an_entry_that_lacks_files_is_not_used(bench: Bench, data: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest_id = bench.save(data)
    one, _ = bench.begin(("data", manifest_id))
    bench.end(one)
    next(bench.entries()[0].glob("tree/**/script")).unlink()
    _, work = bench.begin(("data", manifest_id))
    assert described(work / "data") == described(data)
    assert "remove that entry" in caplog.text
