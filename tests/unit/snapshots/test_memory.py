"""What a save and a restore hold in memory for each file, scaled down: a million of them stay below 300 MB."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from dstack.snapshots import batches, listing, restore, store
from dstack.snapshots.capture import save
from dstack.snapshots.statcache import FileCache
from tests.support.stores import RecordingStore, later

FEW, MANY = 500, 2500
SAVED, SAVED_AGAIN, RESTORED = 430, 230, 150
"""Bytes for each file, names of 12 bytes and what the store in memory keeps of it included."""


@pytest.fixture(params=["one folder", "many folders"])
def folders(request: pytest.FixtureRequest, tmp_path: Path) -> dict[int, Path]:
    """Empty files: chunks have a bound of their own."""
    made: dict[int, Path] = {}
    for count in (FEW, MANY):
        made[count] = tmp_path / f"{count}"
        for number in range(count):
            folder = made[count] / ("all" if request.param == "one folder" else f"{number // 100}")
            if number % 100 == 0:
                folder.mkdir(parents=True, exist_ok=True)
            os.close(os.open(folder / f"file-{number:07}", os.O_CREAT | os.O_WRONLY, 0o644))
    return made


def peak(work: Callable[[], object]) -> int:
    """Bytes above what is held before."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_for_each_file(folders: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in ((batches, "BATCH_STEPS", 64), (store, "PAGES", 1), (listing, "AHEAD_FILES", 200)):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(listing, "AHEAD", 2)
    peaks: dict[str, list[int]] = {"saved": [], "saved again": [], "restored": []}
    for count, folder in [(FEW, folders[FEW]), *folders.items()]:  # the first time everything is imported
        stored, path = RecordingStore(), tmp_path / f"cache {count}"
        saved = save(folder, stored, cache=FileCache(path), clock=later())
        peaks["saved"].append(
            peak(lambda at=folder, path=path: save(at, RecordingStore(), cache=FileCache(path), clock=later()))
        )
        peaks["saved again"].append(
            peak(lambda at=folder, path=path, to=stored: save(at, to, cache=FileCache.load(path), clock=later()))
        )
        target = tmp_path / f"out {len(peaks['saved'])}"
        peaks["restored"].append(
            peak(lambda to=stored, at=target, saved=saved: restore.restore(to, saved.manifest_id, at))
        )
    growth = {what: (found[2] - found[1]) / (MANY - FEW) for what, found in peaks.items()}
    assert growth["saved"] < SAVED
    assert growth["saved again"] < SAVED_AGAIN
    assert growth["restored"] < RESTORED
