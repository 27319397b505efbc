"""What a restore needs several times is fetched once, and taken from what it wrote only where that is still there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dstack.snapshots import again
from dstack.snapshots.capture import save
from dstack.snapshots.restore import restore
from tests.support.stores import RecordingStore
from tests.support.trees import described

BATCH = 1 << 20
SLACK = 10_000
"""Bytes of objects."""


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dstack.snapshots.batches.BATCH_BYTES", BATCH)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


@pytest.fixture
def root(root: Path) -> Path:
    """A file of several chunks, others, and the first one again, the second time below a folder."""
    (root / "a").write_bytes(os.urandom(3 * BATCH))
    for number in range(6):
        (root / f"b-{number}").write_bytes(os.urandom(BATCH - 1))
    shutil.copy(root / "a", root / "c")
    (root / "d" / "e").mkdir(parents=True)
    for name in ("f", "g"):
        shutil.copy(root / "b-0", root / "d" / "e" / name)
    (root / "h").write_bytes((root / "a").read_bytes() + b"tail")
    return root


DISTINCT = 9 * BATCH


def test_equal_content_is_fetched_once(store: RecordingStore, root: Path, target: Path) -> None:
    saved = save(root, store)
    last_chunk = max(place.raw_length for place in store.catalog.chunks.values())  # of `h`, and not of `a`
    restore(store, saved.manifest_id, target)
    assert described(target) == described(root)
    assert sum(store.memory.fetched) < DISTINCT + last_chunk + SLACK


def test_also_what_is_being_read_for_the_batch_before(store: RecordingStore, root: Path, target: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()
    (root / "a").write_bytes(os.urandom(BATCH - 1))
    for name in ("b", "c"):
        shutil.copy(root / "a", root / name)
    saved = save(root, store)
    restore(store, saved.manifest_id, target)
    assert described(target) == described(root)
    assert sum(store.memory.fetched) < BATCH + SLACK


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda path: path.write_bytes(b"?" * path.stat().st_size), id="written to"),
        pytest.param(lambda path: os.truncate(path, 1000), id="cut short"),
        pytest.param(os.unlink, id="removed"),
        pytest.param(lambda path: (path.unlink(), path.symlink_to("/dev/zero")), id="replaced by a link"),
        pytest.param(lambda path: (path.unlink(), os.mkfifo(path)), id="replaced by a pipe"),
    ],
)
def test_what_is_not_there_any_more_is_fetched_again(
    store: RecordingStore, root: Path, target: Path, change: Callable[[Path], object]
) -> None:
    saved = save(root, store)
    changed: list[Path] = []

    def meddle(_: int) -> None:
        if (target / "b-0").exists() and not changed:
            changed.append(target / "a")
            change(target / "a")

    restore(store, saved.manifest_id, target, watch=meddle)
    assert changed
    assert {name: (target / name).read_bytes() == (root / name).read_bytes() for name in ("c", "h")} == {
        "c": True,
        "h": True,
    }


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(again, "MOST", 10)
    places = again.Places()
    for number in range(1000):
        places.note(b"%d" % number, (b"path", number, 1))
    remembered = [number for number in range(1000) if places.find([b"%d" % number])]
    assert 10 <= len(remembered) <= 20
    assert remembered == list(range(1000 - len(remembered), 1000))
