"""The cache of inputs: which entries go and when, and that none goes which is used or about to be."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from dstack.runner import input_cache
from dstack.runner.cloning import put_tree
from dstack.runner.executors.process import boot_id
from dstack.runner.input_cache import Disk, Entry, InputCache, Limits, Wanted, surplus
from dstack.runner.inputs import Ways
from dstack.runner.settings import Settings, from_environment
from dstack.snapshots.capture import save
from dstack.snapshots.errors import MissingChunk
from dstack.snapshots.restore import Restored
from tests.support.ports import FakeClock
from tests.support.stores import RecordingStore

MIB = 1 << 20
FILE = 4096
"""What a file counts as beside its bytes."""


class Shelf:
    """A cache with a clock and a disk that tests set."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "cache"
        self.folder = folder
        self.store = RecordingStore()
        self.clock = FakeClock()
        self.disk = Disk(1000 * MIB, 900 * MIB)
        self.cache = self.opened()

    def opened(self, limit: int = 100 * MIB) -> InputCache:
        """As the next agent opens it."""
        self.cache = InputCache(self.root, self.store, Limits(limit, 60 * MIB), self.clock, lambda _: self.disk)
        return self.cache

    def snapshot(self, size: int) -> Wanted:
        folder = self.folder / f"made-{uuid.uuid4().hex}"
        folder.mkdir()
        (folder / "file").write_bytes(os.urandom(size))
        return Wanted(save(folder, self.store).manifest_id, "data")

    async def obtain(self, wanted: Wanted, size: int, *, keep: bool = False) -> Path | None:
        attempt_id = uuid.uuid4()
        self.clock.advance(1)
        found = await self.cache.obtain(attempt_id, wanted, Restored(1, size))
        if not keep:
            self.cache.release(attempt_id)
        return found

    def there(self) -> set[str]:
        return {path.name for path in self.root.iterdir()}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def run(course: Coroutine[Any, Any, None]) -> None:
    asyncio.run(course)


def test_the_longest_unused_go_first_and_those_in_use_never() -> None:
    entries = [Entry(key, "data", size, used) for key, size, used in (("c", 10, 3), ("a", 5, 1), ("b", 7, 2))]
    assert surplus(entries, set(), 0) == []
    assert surplus(entries, set(), 1) == ["a"]
    assert surplus(entries, set(), 6) == ["a", "b"]
    assert surplus(entries, {"a"}, 6) == ["b"]
    assert surplus(entries, {"a", "b", "c"}, 1) == []


def test_a_new_one_takes_the_room_of_the_longest_unused(shelf: Shelf) -> None:
    shelf.opened(limit=3 * (MIB + FILE))
    a, b, c, d = (shelf.snapshot(MIB) for _ in range(4))

    async def course() -> None:
        for wanted in (a, b, c, a, d):
            assert await shelf.obtain(wanted, MIB)
        assert shelf.there() == {a.key, c.key, d.key}

    run(course())


def test_one_that_is_used_stays_and_what_does_not_fit_beside_it_is_not_kept(shelf: Shelf) -> None:
    shelf.opened(limit=2 * (MIB + FILE))
    a, b, c = (shelf.snapshot(MIB) for _ in range(3))

    async def course() -> None:
        assert await shelf.obtain(a, MIB, keep=True)
        assert await shelf.obtain(b, MIB, keep=True)
        assert await shelf.obtain(c, MIB) is None
        assert shelf.there() == {a.key, b.key}

    run(course())


def test_one_larger_than_the_cache_drives_nothing_out(shelf: Shelf) -> None:
    shelf.opened(limit=2 * (MIB + FILE))
    a = shelf.snapshot(MIB)

    async def course() -> None:
        assert await shelf.obtain(a, MIB)
        assert await shelf.obtain(shelf.snapshot(10), 3 * MIB) is None
        assert shelf.there() == {a.key}

    run(course())


@pytest.mark.parametrize(
    ("disk", "fits"),
    [
        (Disk(5 * (MIB + FILE), 4 * MIB), True),
        (Disk(5 * MIB, 4 * MIB), False),  # more than a fifth of the disk
        (Disk(100 * MIB, 6 * MIB + FILE), True),
        (Disk(100 * MIB, 6 * MIB), False),  # less than a twentieth would be free
        (Disk(9999 * MIB, 61 * MIB + FILE), True),
        (Disk(9999 * MIB, 61 * MIB), False),  # less than is set
    ],
)
def test_it_leaves_room_on_the_disk(shelf: Shelf, disk: Disk, fits: bool) -> None:
    shelf.disk = disk

    async def course() -> None:
        assert (await shelf.obtain(shelf.snapshot(MIB), MIB) is not None) == fits

    run(course())


def test_it_gives_room_back_when_the_disk_fills(shelf: Shelf) -> None:
    a, b, c = (shelf.snapshot(MIB) for _ in range(3))

    async def course() -> None:
        await shelf.obtain(a, MIB, keep=True)
        await shelf.obtain(b, MIB)
        await shelf.obtain(c, MIB)
        assert await shelf.cache.tend() == []
        shelf.disk = Disk(1000 * MIB, 49 * MIB)
        assert await shelf.cache.tend() == [b.key]
        shelf.disk = Disk(1000 * MIB, 10 * MIB)
        assert await shelf.cache.tend() == [c.key]
        assert shelf.there() == {a.key}

    run(course())


def test_a_new_agent_knows_what_is_there_and_when_it_was_used(shelf: Shelf) -> None:
    a, b, c = (shelf.snapshot(MIB) for _ in range(3))

    async def course() -> None:
        for wanted in (a, b, a):
            await shelf.obtain(wanted, MIB)
        cache = shelf.opened(limit=2 * (MIB + FILE))
        assert cache.known() == (a.manifest_id, b.manifest_id)
        reads = shelf.store.verbs().count("get")
        await shelf.obtain(a, MIB)
        assert shelf.store.verbs().count("get") == reads
        attempt_id = uuid.uuid4()
        cache.hold(attempt_id, [b])
        await shelf.obtain(c, MIB)
        assert shelf.there() == {b.key, c.key}
        assert shelf.cache.known() == (c.manifest_id, b.manifest_id)

    run(course())


def test_a_person_may_clear_it(shelf: Shelf) -> None:
    a = shelf.snapshot(MIB)
    run_obtain(shelf, a)
    shutil.rmtree(shelf.root)
    run_obtain(shelf, a)
    assert shelf.there() == {a.key}
    shutil.rmtree(shelf.root)
    assert asyncio.run(shelf.cache.tend()) == []


def test_a_new_agent_removes_what_was_cut_off(shelf: Shelf) -> None:
    a = shelf.snapshot(MIB)
    run_obtain(shelf, a)
    for name in (f"part-{a.key}", f"gone-{a.key}", "0000-0000"):
        (shelf.root / name / "tree" / "read-only").mkdir(parents=True)
        (shelf.root / name / "tree" / "read-only" / "file").touch()
        (shelf.root / name / "tree" / "read-only").chmod(0o500)
    assert shelf.opened().known() == (a.manifest_id,)
    asyncio.run(shelf.cache.tend())
    assert shelf.there() == {a.key}


def test_what_was_cut_off_is_removed_while_the_agent_goes_on(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be millions of files: none of them is touched where the agent starts, nor by its event loop."""
    a, b = shelf.snapshot(MIB), shelf.snapshot(MIB)
    run_obtain(shelf, a)
    (shelf.root / b.key / "tree").mkdir(parents=True)
    (shelf.root / "part-1" / "tree").mkdir(parents=True)
    threads: list[threading.Thread] = []
    monkeypatch.setattr("dstack.runner.input_cache.remove", seen(input_cache.remove, threads))
    cache = shelf.opened()
    assert not threads
    # A good one may take the name of one that is not removed yet, which goes before anything else for the room.
    run_obtain(shelf, b)
    assert shelf.there() == {a.key, b.key}
    assert threading.current_thread() not in threads
    assert asyncio.run(cache.tend()) == []
    assert shelf.there() == {a.key, b.key}


def test_what_cannot_be_removed_does_not_keep_an_agent_from_starting(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (shelf.root / "part-1").mkdir()
    stuck = True

    def refuse(folder: Path) -> None:
        if stuck:
            raise OSError(5, "Input/output error")
        shutil.rmtree(folder)

    monkeypatch.setattr("dstack.runner.input_cache.remove", refuse)
    cache = shelf.opened()
    asyncio.run(cache.tend())
    assert "Input/output error" in caplog.text
    stuck = False
    asyncio.run(cache.tend())
    assert shelf.there() == set()


def seen(work: Callable[[Path], None], threads: list[threading.Thread]) -> Callable[[Path], None]:
    """`work`, noting the threads that do it."""

    def noting(path: Path) -> None:
        threads.append(threading.current_thread())
        work(path)

    return noting


def test_an_entry_that_others_are_made_from_stays_meanwhile(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same files at another place become links to them, while another attempt needs room."""
    shelf.opened(limit=2 * (MIB + FILE))
    a, b = shelf.snapshot(MIB), shelf.snapshot(10)
    elsewhere = a._replace(place="elsewhere")
    reached, go_on = threading.Event(), threading.Event()

    def slow(*arguments: Any) -> int:
        reached.set()
        assert go_on.wait(30)
        return put_tree(*arguments)

    monkeypatch.setattr("dstack.runner.input_cache.put_tree", slow)

    async def course() -> None:
        assert await shelf.obtain(a, MIB)
        linking = asyncio.create_task(shelf.obtain(elsewhere, MIB))
        assert await asyncio.to_thread(reached.wait, 30)
        assert await shelf.obtain(b, 10) is None, "there is no room, for nothing may go"
        go_on.set()
        tree = await linking
        assert tree is not None
        assert (tree / "elsewhere" / "file").stat().st_nlink == 2
        assert await shelf.obtain(b, 10), "nothing is held any more"

    run(course())


def test_an_entry_that_lacks_files_is_not_made_more_of(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    a = shelf.snapshot(MIB)
    run_obtain(shelf, a)
    (shelf.root / a.key / "tree" / "data" / "file").unlink()
    elsewhere = a._replace(place="elsewhere")
    run_obtain(shelf, elsewhere)
    assert (shelf.root / elsewhere.key / "tree" / "elsewhere" / "file").stat().st_size == MIB
    assert "lacks files" in caplog.text


def run_obtain(shelf: Shelf, wanted: Wanted) -> None:
    async def course() -> None:
        assert await shelf.obtain(wanted, MIB)

    run(course())


@pytest.mark.parametrize("synced", [False, True])
def test_after_a_boot_only_what_is_known_to_be_on_the_disk_counts(shelf: Shelf, synced: bool) -> None:
    """A power cut may keep the name of an entry and lose its bytes."""
    a = shelf.snapshot(MIB)
    run_obtain(shelf, a)
    if synced:
        asyncio.run(shelf.cache.tend())
    facts = shelf.root / a.key / "entry.json"
    told = json.loads(facts.read_text())
    assert told["boot_id"] == boot_id()
    facts.write_text(json.dumps({**told, "boot_id": "another"}))
    assert shelf.opened().known() == ((a.manifest_id,) if synced else ())
    asyncio.run(shelf.cache.tend())
    assert shelf.there() == ({a.key} if synced else set())


def test_what_the_disk_did_not_take_does_not_count_after_a_boot(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does a second sync make it count: the kernel has given up on its bytes."""
    a = shelf.snapshot(MIB)
    run_obtain(shelf, a)
    answers = [errno.EIO, 0]
    monkeypatch.setattr(input_cache, "_syncfs", lambda _: answers.pop(0))
    for _ in range(2):
        asyncio.run(shelf.cache.tend())
    assert "Input/output error" in caplog.text
    facts = shelf.root / a.key / "entry.json"
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "boot_id": "another"}))
    assert shelf.opened().known() == ()


def test_a_damaged_snapshot_is_not_kept(shelf: Shelf) -> None:
    """The store's mistake is told as without a cache, and nothing of it stays."""
    a = shelf.snapshot(MIB)
    shelf.store.catalog.forget(list(shelf.store.catalog.chunks))

    async def course() -> None:
        with pytest.raises(MissingChunk):
            await shelf.obtain(a, MIB)

    run(course())
    assert shelf.there() == set()


def test_an_agent_loads_none_of_it_before_a_job_needs_it() -> None:
    """What most jobs start with stays as quick as it was."""
    program = "import sys, dstack.runner.__main__, dstack.runner.setup; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "dstack.runner.working_copy" in done.stdout.split()
    assert not {"dstack.runner.inputs", "dstack.runner.input_cache", "dstack.runner.overlay"} & set(done.stdout.split())


def test_the_best_way_is_taken() -> None:
    no, yes = "no", ""
    assert Ways(yes, yes, far=False).best(1999) == "reflink"
    assert Ways(yes, yes, far=False).best(2000) == "overlay"
    assert Ways(yes, no, far=False).best(2000) == "reflink"
    assert Ways(no, yes, far=False).best(100) == "overlay"
    assert Ways(no, no, far=False).best(100) == "direct"
    assert Ways(no, no, far=True).best(100) == "copy"
    assert Ways(yes, yes, far=False).best(100, "copy") == "copy"
    assert Ways(yes, no, far=True).best(100, "overlay") == "direct"
    assert Ways(yes, yes, far=True).best(100, "direct") == "direct"


def test_a_way_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="DSTACK_RUNNER_INPUTS_WAY=`hardlink` is none of"):
        from_environment(Settings(home=tmp_path), {"DSTACK_RUNNER_INPUTS_WAY": "hardlink"})
