"""Artifacts on an overlay: changes are told, and what did not change is not read again."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dstack.snapshots.capture import save
from dstack.snapshots.live import LiveCapture, Snapshots
from dstack.snapshots.restore import restore
from dstack.snapshots.statcache import FileCache
from tests.support.inputs import Bench
from tests.support.stores import later
from tests.support.trees import described


def test_an_artifact_that_is_also_an_input_is_captured_while_it_changes(bench: Bench, data: Path) -> None:
    """The kernel tells of changes on an overlay; a file that is written to for the first time, and a renamed folder,
    are found; and what did not change is not read twice."""
    _, work = bench.begin(("data", bench.save(data)), artifacts=["data"])
    taken: list[bytes] = []
    told = threading.Condition()

    def on_snapshot(found: Snapshots) -> None:
        with told:
            taken.append(found["data"].manifest_id)
            told.notify_all()

    def change(what: Callable[[], object]) -> None:
        with told:
            before = len(taken)
            what()
            assert told.wait_for(lambda: len(taken) > before, 30)

    capture = LiveCapture(work, ["data"], bench.store, on_snapshot, quiet=0.05, max_interval=0.5, rescan=600)
    capture.start()
    with told:
        while not taken:  # until the kernel has been asked to tell of changes
            (work / "data" / "first").write_text(os.urandom(8).hex())
            told.wait(0.3)
    change(lambda: (work / "data" / "deep" / "er" / "script").write_text("echo changed\n"))
    change(lambda: (work / "data" / "deep").rename(work / "data" / "renamed"))
    change(lambda: (work / "data" / "renamed" / "new").write_text("in a folder that was moved"))
    change((work / "data" / "big").unlink)
    saved = capture.final()["data"]
    capture.join()
    restored = data.parent / "restored"
    restore(bench.store, saved.manifest_id, restored)
    assert described(restored) == described(work / "data")
    assert (restored / "renamed" / "new").exists()


@pytest.mark.parametrize("bench", ["overlay", "overlay btrfs", "overlay xfs"], indirect=True)
def test_what_did_not_change_on_an_overlay_is_not_read_again(bench: Bench, data: Path) -> None:
    """Device and inode of a file stay the same, also when it is written to for the first time."""
    _, work = bench.begin(("data", bench.save(data)))
    cache = FileCache()

    def read_bytes() -> int:
        read: list[int] = []
        save(work / "data", bench.store, cache=cache, clock=later(), watch=read.append)
        return sum(read)

    assert read_bytes() >= (data / "big").stat().st_size
    assert read_bytes() == 0
    with open(work / "data" / "deep" / "er" / "script", "a") as file:
        file.write("echo more\n")
    assert 0 < read_bytes() < 1000
