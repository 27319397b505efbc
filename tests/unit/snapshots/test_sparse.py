"""Sparse files: holes are not read, not stored, and are holes again when they are restored."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack.snapshots import reading, sparse
from dstack.snapshots.capture import save
from dstack.snapshots.chunking import digest
from dstack.snapshots.manifests import FileEntry
from dstack.snapshots.restore import restore
from dstack.snapshots.sparse import Holes
from dstack.snapshots.statcache import FileCache, SavedSnapshot
from tests.contract.snapshots import spec_reader
from tests.support.stores import RecordingStore, later
from tests.support.trees import described

MIB = 1024 * 1024
FLAT = st.lists(st.integers(1, 50), max_size=12).map(
    lambda steps: tuple(
        number
        for at, length in zip(
            (sum(steps[: index + 1]) for index in range(0, len(steps) - 1, 2)), steps[1::2], strict=True
        )
        for number in (at, length)
    )
)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each call read of files."""
    counts: list[int] = []
    real = os.preadv

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        counts.append(real(fd, buffers, offset))
        return counts[-1]

    monkeypatch.setattr(reading.os, "preadv", preadv)
    return counts


def make(path: Path, size: int, pieces: Iterable[tuple[int, bytes]] = ()) -> None:
    with open(path, "wb") as file:
        for offset, data in pieces:
            file.seek(offset)
            file.write(data)
        file.truncate(size)


def entry_of(store: RecordingStore, saved: SavedSnapshot) -> FileEntry:
    (entry,) = store.directories([store.root(saved.manifest_id).tree_id]).popitem()[1].entries
    assert isinstance(entry, FileEntry)
    return entry


def on_disk(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.mark.parametrize(
    ("size", "pieces"),
    [
        (100_000, ()),
        (9 * MIB, ()),
        (64 * MIB, ((5 * MIB, b"data"),)),
        (64 * MIB + 1, ((0, os.urandom(3 * MIB)), (40 * MIB + 17, os.urandom(MIB)), (64 * MIB, b"x"))),
        (30 * MIB, tuple((at, os.urandom(70_000)) for at in range(0, 30 * MIB, 3 * MIB))),
        (20 * MIB, ((4 * MIB, bytes(8 * MIB)),)),
    ],
    ids=["small", "nothing but a hole", "one piece", "odd ends", "many pieces", "zeros that are data"],
)
def test_it_comes_back_with_its_holes(
    store: RecordingStore, root: Path, tmp_path: Path, size: int, pieces: tuple[tuple[int, bytes], ...]
) -> None:
    make(root / "sparse", size, pieces)
    saved = save(root, store)
    restore(store, saved.manifest_id, tmp_path / "out")
    assert described(tmp_path / "out") == described(root)
    assert on_disk(tmp_path / "out/sparse") <= on_disk(root / "sparse") + 256 * 1024
    blobs = {info.key: store.blobs.get(info.key) for info in store.blobs.list("")}
    spec_reader.restore(blobs, saved.manifest_id, tmp_path / "by the page")
    assert described(tmp_path / "by the page") == described(root)


@pytest.mark.parametrize("size", [9 * MIB, 64 * MIB + 1])
def test_its_ids_are_those_of_the_same_file_without_holes(
    store: RecordingStore, root: Path, tmp_path: Path, size: int
) -> None:
    """The content does not depend on holes, nor do the cuts: what lies in a hole has the chunks of zeros."""
    make(root / "f", size, ((5 * MIB + 3, os.urandom(MIB)),))
    sparse_entry = entry_of(store, save(root, store))
    (root / "f").write_bytes((root / "f").read_bytes())
    full = save(root, store)
    full_entry = entry_of(store, full)
    assert sparse_entry.holes
    assert full_entry.holes == ()
    assert (full_entry.digest, full_entry.chunks) == (sparse_entry.digest, sparse_entry.chunks)
    assert full.stored < 10_000


def test_holes_are_not_read(store: RecordingStore, root: Path, tmp_path: Path, read: list[int]) -> None:
    make(root / "f", 400 * MIB, ((100 * MIB, os.urandom(MIB)),))
    saved = save(root, store)
    assert sum(read) < 16 * MIB
    assert saved.stored < 2 * MIB
    store.log.clear()
    restore(store, saved.manifest_id, tmp_path / "out")
    assert on_disk(tmp_path / "out/f") < 2 * MIB
    assert (tmp_path / "out/f").stat().st_size == 400 * MIB


def test_a_chunk_of_zeros_is_neither_asked_for_nor_written(store: RecordingStore, root: Path, tmp_path: Path) -> None:
    make(root / "f", 64 * MIB)
    saved = save(root, store)
    store.catalog.forget([digest(bytes(2 * MIB))])
    restore(store, saved.manifest_id, tmp_path / "out")
    assert (tmp_path / "out/f").read_bytes() == bytes(64 * MIB)
    assert on_disk(tmp_path / "out/f") == 0


def test_a_file_of_exabytes_is_refused_before_it_is_looked_at(
    store: RecordingStore, root: Path, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_CHUNKS", 4)
    make(root / "f", 8 * MIB + 1)
    (warning,) = save(root, store).warnings
    assert warning == "f: not saved, a file of 8388609 bytes is larger than a snapshot can hold"
    assert read == []


def test_a_sparse_file_that_grows_is_read_on(
    store: RecordingStore, root: Path, tmp_path: Path, read: list[int]
) -> None:
    cache = FileCache()
    make(root / "f", 64 * MIB, ((0, b"begin"),))
    save(root, store, cache=cache, live=True, clock=later())
    for grown in (64 * MIB + 700, 100 * MIB + 1, 160 * MIB):
        read.clear()
        with open(root / "f", "r+b") as file:
            file.truncate(grown)
            file.seek(grown - 100)
            file.write(os.urandom(100))
        saved = save(root, store, cache=cache, live=True, clock=later())
        assert sum(read) < 16 * MIB
        restore(store, saved.manifest_id, tmp_path / "out")
        assert (tmp_path / "out/f").read_bytes() == (root / "f").read_bytes()
        last = save(root, RecordingStore())
        assert last.content_id == saved.content_id


def test_a_file_of_very_many_holes_keeps_the_longest(
    store: RecordingStore, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse, "MOST", 3)
    pieces = [(at * at * 64 * 1024, b"x") for at in range(1, 12)]
    make(root / "f", 10 * MIB, pieces)
    saved = save(root, store)
    holes = entry_of(store, saved).holes
    assert len(holes) == 6
    assert min(holes[1::2]) > MIB
    restore(store, saved.manifest_id, tmp_path / "out")
    assert (tmp_path / "out/f").read_bytes() == (root / "f").read_bytes()


def test_a_file_system_that_does_not_tell_costs_only_the_holes(
    store: RecordingStore, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(root / "f", 9 * MIB, ((5 * MIB, b"data"),))

    def refuse(fd: int, at: int, how: int) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(sparse.os, "lseek", refuse)
    saved = save(root, store)
    assert entry_of(store, saved).holes == ()
    restore(store, saved.manifest_id, tmp_path / "out")
    assert (tmp_path / "out/f").read_bytes() == (root / "f").read_bytes()


@given(flat=FLAT, start=st.integers(0, 400), length=st.integers(0, 100))
def test_holes_at_and_within(flat: tuple[int, ...], start: int, length: int) -> None:
    holes, covered = Holes(flat), set[int]()
    for at, size in zip(flat[::2], flat[1::2], strict=True):
        covered.update(range(at, at + size))
    left = 0
    index = next((i for i in range(0, len(flat), 2) if flat[i] <= start < flat[i] + flat[i + 1]), None)
    if index is not None:
        left = flat[index] + flat[index + 1] - start
    assert holes.left(start) == left
    assert holes.total == len(covered)
    found = set[int]()
    for first, last in holes.within(start, start + length):
        assert first < last
        found.update(range(first, last))
    assert found == covered & set(range(start, start + length))
