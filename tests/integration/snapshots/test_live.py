"""Live capture with the kernel's own notifications. Times are scaled down; every wait is for an event."""

from __future__ import annotations

import os
import queue
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack.snapshots.errors import CaptureFailed, StoreRefused
from dstack.snapshots.live import LiveCapture, Snapshots
from dstack.snapshots.restore import restore
from dstack.snapshots.statcache import SavedSnapshot
from tests.support.stores import RecordingStore
from tests.support.trees import described

PATIENCE = 30.0
"""Seconds until a test says that nothing came; never waited for when all is well."""


class Watched:
    """A capture of `checkpoint` and `logs`, and the snapshots that it reported."""

    def __init__(self, root: Path, rescan: float = 2.0) -> None:
        self.root = root
        for name in ("checkpoint", "logs"):
            (root / name).mkdir(parents=True)
        self.store = RecordingStore()
        self.taken: queue.Queue[Snapshots] = queue.Queue()
        self.capture = LiveCapture(
            root, ["checkpoint", "logs"], self.store, self.taken.put, quiet=0.2, max_interval=1.0, rescan=rescan
        )

    def until(self, path: str, files: dict[bytes, bytes]) -> SavedSnapshot:
        """Wait for the snapshot of `path` in which these files are."""
        while True:
            taken = self.taken.get(timeout=PATIENCE)
            if path in taken and self.files(taken[path]) == files:
                return taken[path]

    def files(self, saved: SavedSnapshot) -> dict[bytes, bytes]:
        target = self.root.parent / "out"
        restore(self.store, saved.manifest_id, target)
        found = {path: entry.what for path, entry in described(target).items()}
        shutil.rmtree(target)
        return found


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[Watched]:
    """A capture that was not started, and that never looks without being told."""
    watched = Watched(tmp_path / "root", rescan=3600.0)
    yield watched
    watched.capture.stop()
    watched.capture.join(PATIENCE)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    watched = Watched(tmp_path / "root")
    watched.capture.start()
    yield watched
    watched.capture.stop()
    watched.capture.join(PATIENCE)


def test_what_is_written_is_saved_while_the_job_runs(watched: Watched) -> None:
    checkpoint = watched.root / "checkpoint"
    (checkpoint / "1").write_bytes(b"one")
    watched.until("checkpoint", {b"1": b"one"})
    (checkpoint / "2").write_bytes(b"two")
    first = watched.until("checkpoint", {b"1": b"one", b"2": b"two"})
    (checkpoint / "1").unlink()
    second = watched.until("checkpoint", {b"2": b"two"})
    assert first.manifest_id != second.manifest_id
    assert "sync" not in watched.store.verbs()


def test_only_what_changed_is_reported(watched: Watched) -> None:
    (watched.root / "logs" / "l").write_bytes(b"line\n")
    watched.until("logs", {b"l": b"line\n"})
    (watched.root / "checkpoint" / "c").write_bytes(b"c")
    while "checkpoint" not in (taken := watched.taken.get(timeout=PATIENCE)):
        pass
    assert "logs" not in taken


def test_the_last_snapshot_is_synced_and_has_everything(watched: Watched) -> None:
    (watched.root / "checkpoint" / "c").write_bytes(b"live")
    watched.until("checkpoint", {b"c": b"live"})
    (watched.root / "checkpoint" / "c").write_bytes(b"last")
    (watched.root / "logs" / "l").write_bytes(b"line\n")
    final = watched.capture.final()
    assert watched.store.verbs()[-1] == "sync"
    assert {path: watched.files(saved) for path, saved in final.items()} == {
        "checkpoint": {b"c": b"last"},
        "logs": {b"l": b"line\n"},
    }


def test_what_stands_beside_a_folder_that_cannot_be_saved_is_saved_and_told_of(tmp_path: Path) -> None:
    """Its last state would be lost with the other's."""
    watched = Watched(tmp_path / "root")
    (watched.root / "logs" / "1").write_bytes(b"one")
    shutil.rmtree(watched.root / "checkpoint")
    (watched.root / "checkpoint").write_bytes(b"a file")
    with pytest.raises(CaptureFailed, match="checkpoint was not saved: the job put a file in the place"):
        watched.capture.final()
    [taken] = [watched.taken.get_nowait() for _ in range(watched.taken.qsize())]
    assert list(taken) == ["logs"]
    assert watched.files(taken["logs"]) == {b"1": b"one"}


def test_of_a_save_that_is_abandoned_nothing_is_told(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "root")
    (watched.root / "logs" / "1").write_bytes(b"one")
    watched.capture.abandon()
    with pytest.raises(CaptureFailed, match="aborted before all of it was saved"):
        watched.capture.final()
    assert watched.taken.empty()


def test_what_the_store_lost_is_saved_and_told_of_again(watched: Watched) -> None:
    (watched.root / "checkpoint" / "c").write_bytes(b"c")
    first = watched.until("checkpoint", {b"c": b"c"})
    watched.store.catalog.forget(list(watched.store.catalog.chunks))
    watched.capture.again()
    second = watched.until("checkpoint", {b"c": b"c"})
    assert (second.manifest_id, second.stored > 0) == (first.manifest_id, True)


def test_nothing_is_taken_after_stop(watched: Watched) -> None:
    watched.capture.stop()
    before = len(watched.store.log)
    (watched.root / "checkpoint" / "c").write_bytes(b"late")
    watched.capture.join(PATIENCE)
    assert len(watched.store.log) == before


def test_a_folder_that_is_made_anew_is_watched_again(watched: Watched) -> None:
    checkpoint = watched.root / "checkpoint"
    (checkpoint / "1").write_bytes(b"one")
    watched.until("checkpoint", {b"1": b"one"})
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()
    (checkpoint / "2").write_bytes(b"two")
    watched.until("checkpoint", {b"2": b"two"})
    (checkpoint / "3").write_bytes(b"three")
    watched.until("checkpoint", {b"2": b"two", b"3": b"three"})


def test_what_was_written_before_the_watch_was_up_is_saved_without_another_change(begun: Watched) -> None:
    (begun.root / "checkpoint" / "1").write_bytes(b"one")
    begun.capture.start()
    taken = begun.taken.get(timeout=PATIENCE)
    assert {path: begun.files(saved) for path, saved in taken.items()} == {"checkpoint": {b"1": b"one"}}


def test_a_folder_that_comes_later_is_saved_with_what_is_in_it(begun: Watched) -> None:
    for name in ("checkpoint", "logs"):
        (begun.root / name).rmdir()
    begun.capture.start()
    made = begun.root / "made"
    made.mkdir()
    (made / "1").write_bytes(b"one")
    made.rename(begun.root / "checkpoint")
    begun.until("checkpoint", {b"1": b"one"})
    (begun.root / "checkpoint" / "2").write_bytes(b"two")
    begun.until("checkpoint", {b"1": b"one", b"2": b"two"})


def test_a_folder_that_is_made_anew_as_the_same_inode_is_watched_again(
    begun: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many file systems give the number of an inode that was freed to the next one that is made."""
    monkeypatch.setattr(begun.capture, "_identities", lambda: {"checkpoint": (1, 1), "logs": (1, 2)})
    checkpoint = begun.root / "checkpoint"
    (checkpoint / "1").write_bytes(b"one")
    begun.capture.start()
    begun.until("checkpoint", {b"1": b"one"})
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()
    begun.until("checkpoint", {})
    (checkpoint / "2").write_bytes(b"two")
    begun.until("checkpoint", {b"2": b"two"})


def test_folders_below_it_that_are_made_anew_are_followed(begun: Watched) -> None:
    version = begun.root / "checkpoint" / "version"
    folders = {b"version": b"", b"version/deep": b""}
    (version / "deep").mkdir(parents=True)
    begun.capture.start()
    begun.until("checkpoint", folders)
    shutil.rmtree(version)
    (version / "deep").mkdir(parents=True)
    (version / "deep" / "1").write_bytes(b"one")
    begun.until("checkpoint", {**folders, b"version/deep/1": b"one"})
    (version / "deep" / "2").write_bytes(b"two")
    begun.until("checkpoint", {**folders, b"version/deep/1": b"one", b"version/deep/2": b"two"})


def test_a_store_that_fails_for_a_while_costs_only_that_while(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refused = queue.Queue[str]()
    good = watched.store.memory.put

    def refuse(key: str, data: object) -> bool:
        refused.put(key)
        raise StoreRefused("the disk is full")

    monkeypatch.setattr(watched.store.memory, "put", refuse)
    (watched.root / "checkpoint" / "1").write_bytes(b"one")
    refused.get(timeout=PATIENCE)
    monkeypatch.setattr(watched.store.memory, "put", good)
    (watched.root / "checkpoint" / "2").write_bytes(b"two")
    watched.until("checkpoint", {b"1": b"one", b"2": b"two"})
    assert "live snapshot of" in caplog.text


def test_a_growing_log_is_saved_though_it_never_rests(watched: Watched) -> None:
    """Writes come faster than the quiet period: the greatest interval decides."""
    path = watched.root / "logs" / "l"
    written = 0
    with open(path, "ab", buffering=0) as file:
        while True:
            file.write(b"line\n")
            written += 1
            try:
                taken = watched.taken.get(timeout=0.02)
            except queue.Empty:
                assert written < PATIENCE * 50
                continue
            if "logs" in taken and watched.files(taken["logs"]).get(b"l"):
                break
    found = watched.files(taken["logs"])[b"l"]
    assert found == b"line\n" * (len(found) // 5)
    assert os.path.getsize(path) >= len(found)


def test_without_notifications_it_looks_by_itself(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("OS file watch limit reached")

    monkeypatch.setattr("dstack.snapshots.live.watch", refuse)
    blind = LiveCapture(watched.root, ["logs"], watched.store, watched.taken.put, rescan=0.1)
    blind.start()
    (watched.root / "logs" / "l").write_bytes(b"line\n")
    watched.until("logs", {b"l": b"line\n"})
    blind.stop()
    blind.join(PATIENCE)
    assert "OS file watch limit reached" in caplog.text


def test_a_report_that_fails_does_not_end_the_watching(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failed: queue.Queue[Snapshots] = queue.Queue()

    def report(snapshots: Snapshots) -> None:
        if failed.empty():
            failed.put(snapshots)
            raise OSError("the disk is full")
        watched.taken.put(snapshots)

    monkeypatch.setattr(watched.capture, "_on_snapshot", report)
    (watched.root / "checkpoint" / "1").write_bytes(b"one")
    failed.get(timeout=PATIENCE)
    failed.put({})
    (watched.root / "checkpoint" / "2").write_bytes(b"two")
    watched.until("checkpoint", {b"1": b"one", b"2": b"two"})
    assert "could not be reported" in caplog.text
