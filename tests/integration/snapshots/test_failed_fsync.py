"""An fsync that failed: what the next one says is not believed, the bytes are written anew."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dstack.snapshots.blobs.given_up import GivenUp
from dstack.snapshots.blobs.local import RECENT, LocalBlobStore
from dstack.snapshots.capture import save
from dstack.snapshots.catalog import MemoryCatalog
from dstack.snapshots.chunking import digest
from dstack.snapshots.errors import StoreLost, StoreRefused
from dstack.snapshots.interfaces import pack_key
from dstack.snapshots.live import LiveCapture, Snapshots
from dstack.snapshots.restore import restore
from dstack.snapshots.store import SnapshotStore
from tests.support.failing_disk import Disk, disk

__all__ = ["disk"]

CONTENT = b"what a job has learned"


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobStore:
    return LocalBlobStore(tmp_path / "store")


def put(blobs: LocalBlobStore, content: bytes = CONTENT) -> Path:
    key = pack_key(digest(content))
    assert blobs.put(key, content)
    return blobs.root / key


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_pack_that_the_disk_did_not_take_is_written_anew(blobs: LocalBlobStore, disk: Disk, number: int) -> None:
    path = put(blobs)
    disk.fails, disk.number = [path.name], number
    with pytest.raises(StoreRefused, match=str(path.parent)):
        blobs.sync()
    assert not disk.has(path)
    blobs.sync()
    assert disk.has(path), "it is another file"
    assert disk.has(path.parent)
    assert path.read_bytes() == CONTENT
    assert [found.name for found in path.parent.iterdir()] == [path.name], "nothing else is left"
    before = os.stat(path).st_ino
    blobs.sync()
    assert os.stat(path).st_ino == before, "once is enough"


def test_one_that_cannot_be_written_anew_either_is_tried_again(blobs: LocalBlobStore, disk: Disk) -> None:
    path = put(blobs)
    disk.fails = [path.name, "new"]
    for _ in range(2):
        with pytest.raises(StoreRefused):
            blobs.sync()
        assert not disk.has(path)
    blobs.sync()
    assert disk.has(path)


def test_the_next_process_writes_it_anew_however_late(blobs: LocalBlobStore, disk: Disk) -> None:
    path = put(blobs)
    disk.fails = [path.name]
    with pytest.raises(StoreRefused):
        blobs.sync()
    for old in (path, path.parent):
        long_ago = os.stat(old).st_mtime - 2 * RECENT
        os.utime(old, (long_ago, long_ago))
    assert [found.key for found in blobs.list("")] == [pack_key(digest(CONTENT))], "the mark is no blob"
    LocalBlobStore(blobs.root).sync()
    assert disk.has(path)
    assert disk.has(path.parent)


def test_a_folder_that_the_disk_did_not_take_gets_its_files_anew(blobs: LocalBlobStore, disk: Disk) -> None:
    path, other = put(blobs), put(blobs, b"elsewhere")
    disk.fails = [f"/packs/{path.parent.name}"]
    with pytest.raises(StoreRefused):
        blobs.sync()
    before = {each: os.stat(each).st_ino for each in (path, other)}
    blobs.sync()
    assert os.stat(path).st_ino != before[path]
    assert os.stat(other).st_ino == before[other]
    assert disk.has(path)


def test_what_is_not_in_memory_any_more_is_never_taken_for_written(blobs: LocalBlobStore, disk: Disk) -> None:
    path = put(blobs)
    disk.fails = [path.name]
    with pytest.raises(StoreRefused):
        blobs.sync()
    path.write_bytes(bytes(len(CONTENT)))  # the pages were given back, and the disk has zeros
    other = put(blobs, b"another")
    for _ in range(2):
        with pytest.raises(StoreLost, match="`dstack verify --repair`"):
            blobs.sync()
    assert disk.has(other), "nothing else waits for it"
    blobs.delete([pack_key(digest(CONTENT))])  # as a repair does, whose transaction is not over
    for store in (blobs, LocalBlobStore(blobs.root)):
        with pytest.raises(StoreLost):
            store.sync()
    blobs.let_go([pack_key(digest(CONTENT))])
    for store in (blobs, LocalBlobStore(blobs.root)):
        store.sync()
    assert put(blobs) == path
    blobs.sync()
    assert disk.has(path)


def test_what_was_lost_and_is_not_taken_once_more_is_not_let_go_of(tmp_path: Path) -> None:
    """Somebody has put it again while the store was repaired."""
    path = tmp_path / pack_key(digest(CONTENT))
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(len(CONTENT)))
    given_up = GivenUp()
    given_up.add([path])
    assert not given_up.write_anew(path)
    given_up.add([path])
    given_up.let_go(path)
    assert given_up.paths() == [path]
    assert not given_up.write_anew(path)
    given_up.let_go(path)
    assert given_up.paths() == []
    assert list(path.parent.iterdir()) == [path], "no mark is left"


def test_the_last_save_writes_anew_what_a_live_snapshot_put(tmp_path: Path, blobs: LocalBlobStore, disk: Disk) -> None:
    """The live one waits for no disk; the last one stores nothing itself, and is recorded only once all is there."""
    (tmp_path / "job" / "out").mkdir(parents=True)
    (tmp_path / "job" / "out" / "model").write_bytes(CONTENT * 1000)
    store, live = SnapshotStore(blobs, MemoryCatalog()), list[Snapshots]()
    capture = LiveCapture(tmp_path / "job", ["out"], store, live.append)
    first = save(tmp_path / "job" / "out", store, live=True)
    packs = [blobs.root / found.key for found in blobs.list("")]
    assert not any(disk.has(pack) for pack in packs)
    disk.fails = [packs[0].name]
    with pytest.raises(StoreRefused):
        capture.final()
    assert not all(disk.has(pack) for pack in packs)
    last = capture.final()["out"]
    assert (last.manifest_id, last.stored) == (first.manifest_id, 0)
    assert all(disk.has(blobs.root / found.key) for found in blobs.list(""))
    assert len(list(blobs.list(""))) == len(packs)
    restore(store, last.manifest_id, tmp_path / "back")
    assert (tmp_path / "back" / "model").read_bytes() == CONTENT * 1000
