"""A save that is cut off and made again, and the same file saved by two at once (F28)."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable
from itertools import count
from pathlib import Path

import pytest

from dstack.sdk.blobs import Buffer
from dstack.snapshots.blobs.local import LocalBlobStore
from dstack.snapshots.capture import save
from dstack.snapshots.catalog import MemoryCatalog
from dstack.snapshots.errors import StoreRefused
from dstack.snapshots.restore import restore
from dstack.snapshots.statcache import FileCache, SavedSnapshot
from dstack.snapshots.store import SnapshotStore
from tests.faults.snapshots.test_save_killed import save_in_a_process
from tests.support.packs import rebuild
from tests.support.stores import RecordingStore
from tests.support.trees import described

PACK = 200_000
"""Bytes of the packs that `save_in_a_process` writes."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for number in range(60):
        (tmp_path / "in" / f"{number:02}").write_bytes(os.urandom(60_000))
    return tmp_path


def assert_resumes(store: SnapshotStore, root: Path, sent: int) -> None:
    """The next save, which knows nothing of the first, sends what is missing: a tenth, and what was in flight."""
    saved = save(root / "in", store, cache=FileCache())
    assert saved.size == 60 * 60_000
    assert saved.stored < saved.size - sent + PACK
    restore(store, saved.manifest_id, root / "out")
    assert described(root / "out") == described(root / "in")


def test_killed_at_nine_tenths(root: Path) -> None:
    assert save_in_a_process(root, DSTACK_FAULT="store.put:before:18") == -signal.SIGKILL
    blobs, catalog = LocalBlobStore(root / "store"), MemoryCatalog()
    assert rebuild(blobs, catalog) == 17
    sent = sum(info.size for info in blobs.list("packs/"))
    assert sent > 0.8 * 60 * 60_000
    assert_resumes(SnapshotStore(blobs, catalog), root, sent)


def test_a_connection_that_breaks_at_nine_tenths(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PACK_TARGET", "PENDING_BYTES"):
        monkeypatch.setattr(f"dstack.snapshots.writer.{name}", PACK)
    store = RecordingStore()
    good, sent = store.memory.put, 0

    def put(key: str, data: Buffer) -> bool:
        nonlocal sent
        if sent > 0.85 * 60 * 60_000:
            raise ConnectionResetError(104, "Connection reset by peer")
        sent += len(data)
        return good(key, data)

    with monkeypatch.context() as patch:
        patch.setattr(store.memory, "put", put)
        with pytest.raises(StoreRefused, match="Connection reset by peer"):
            save(root / "in", store)
    assert_resumes(store, root, sent)


class Meeting(RecordingStore):
    """Answers the first two questions, one of each saver, only when both were asked."""

    def __init__(self) -> None:
        super().__init__()
        self.both = threading.Barrier(2, timeout=60)
        self.asked = count()

    def missing(self, chunk_ids: Iterable[bytes]) -> set[bytes]:
        found = super().missing(chunk_ids)
        if next(self.asked) < 2:
            self.both.wait()
        return found


def save_twice_at_once(store: SnapshotStore, folder: Path) -> list[SavedSnapshot]:
    saved: list[SavedSnapshot] = []
    jobs = [threading.Thread(target=lambda: saved.append(save(folder, store))) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert len(saved) == 2
    return saved


@pytest.mark.parametrize("size", [200_000, 5_000_000])
def test_the_same_file_from_two_jobs_at_once_is_stored_once(tmp_path: Path, size: int) -> None:
    """Both found that it is not there, and both send it: equal chunks in equal order are one pack."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "model").write_bytes(os.urandom(size))
    store = Meeting()
    first, second = save_twice_at_once(store, tmp_path / "in")
    assert first.manifest_id == second.manifest_id
    assert sum(info.size for info in store.blobs.list("")) < 1.05 * size
    restore(store, first.manifest_id, tmp_path / "out")
    assert described(tmp_path / "out") == described(tmp_path / "in")


def test_the_same_folder_from_two_jobs_at_once_is_stored_twice_at_most(tmp_path: Path) -> None:
    """Several large files are read by threads, in an order of each save's own: their packs may differ."""
    (tmp_path / "in").mkdir()
    for number in range(6):
        (tmp_path / "in" / f"{number}").write_bytes(os.urandom(900_000))
    store = Meeting()
    first, second = save_twice_at_once(store, tmp_path / "in")
    assert first.manifest_id == second.manifest_id
    assert sum(info.size for info in store.blobs.list("")) < 2.05 * 6 * 900_000
    third = save(tmp_path / "in", store)
    assert (third.manifest_id, third.stored) == (first.manifest_id, 0)
    restore(store, first.manifest_id, tmp_path / "out")
    assert described(tmp_path / "out") == described(tmp_path / "in")


def test_a_file_that_another_job_has_stored_is_not_sent(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    data = os.urandom(5_000_000)
    (tmp_path / "one" / "a").write_bytes(data)
    (tmp_path / "two" / "b").write_bytes(data)
    store = RecordingStore()
    assert save(tmp_path / "one", store).stored > 5_000_000
    assert save(tmp_path / "two", store).stored < 10_000
