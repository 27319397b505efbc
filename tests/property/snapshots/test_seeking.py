"""A stored file reads as the plain one does, whatever is asked of it, and fetches no more than that needs."""

from __future__ import annotations

import io
import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack.snapshots.capture import save
from dstack.snapshots.errors import BadManifest, CorruptChunk
from dstack.snapshots.interfaces import pack_key
from dstack.snapshots.lookup import locate
from dstack.snapshots.manifests import FileEntry, file_chunks, pack_chunks
from dstack.snapshots.seeking import AHEAD, KEPT, StoredFile
from tests.support.stores import RecordingStore

SIZE = 9_000_000
POSITIONS = st.one_of(st.integers(0, SIZE + 10), st.sampled_from([0, SIZE - 1, SIZE, SIZE + 1]))
LENGTHS = st.one_of(st.integers(0, 3_000_000), st.sampled_from([0, 1, 4096, SIZE + 1, -1]))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("seek"), POSITIONS, st.just(os.SEEK_SET)),
        st.tuples(st.just("seek"), st.integers(-1000, 1000), st.sampled_from([os.SEEK_CUR, os.SEEK_END])),
        st.tuples(st.just("read"), LENGTHS, st.just(0)),
        st.tuples(st.just("readinto"), st.integers(0, 100_000), st.just(0)),
        st.tuples(st.just("tell"), st.just(0), st.just(0)),
    ),
    max_size=12,
)


@contextmanager
def stored(data: bytes, holes: bool = False) -> Iterator[tuple[RecordingStore, bytes, FileEntry, Path]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "data")
        if holes:
            with path.open("wb") as file:
                file.write(data[:100])
                file.seek(5_000_000)
                file.write(data[:100])
        else:
            path.write_bytes(data)
        store = RecordingStore()
        saved = save(Path(folder), store)
        entry = locate(store, saved.manifest_id, b"data").entry
        assert isinstance(entry, FileEntry)
        yield store, saved.manifest_id, entry, path


@pytest.fixture(scope="module")
def large() -> Iterator[tuple[RecordingStore, bytes, FileEntry, Path]]:
    with stored(random.Random(1).randbytes(SIZE)) as found:
        yield found


def do(file: io.RawIOBase | io.BufferedIOBase, step: tuple[str, int, int]) -> object:
    kind, number, whence = step
    try:
        if kind == "seek":
            return file.seek(number, whence)
        if kind == "read":
            return file.read(number)
        if kind == "readinto":
            buffer = bytearray(number)
            return file.readinto(buffer), bytes(buffer)
        return file.tell()
    except (OSError, ValueError) as error:
        return type(error)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, buffered=st.booleans())
def test_it_reads_as_a_plain_file(
    large: tuple[RecordingStore, bytes, FileEntry, Path], steps: list[tuple[str, int, int]], buffered: bool
) -> None:
    store, manifest_id, entry, path = large
    raw = StoredFile(store, manifest_id, entry)
    with path.open("rb", buffering=0) as plain, io.BufferedReader(raw) if buffered else raw as file:
        for step in steps:
            assert do(file, step) == do(plain, step), step


@pytest.mark.parametrize("data", [b"", b"x", b"y" * 262_144, random.Random(2).randbytes(600_000)])
def test_small_files(data: bytes) -> None:
    with stored(data) as (store, manifest_id, entry, _), StoredFile(store, manifest_id, entry) as file:
        assert (file.read(), file.read(), file.seek(0, os.SEEK_END)) == (data, b"", len(data))


def test_holes_read_as_zeros() -> None:
    with stored(b"z" * 100, holes=True) as (store, manifest_id, entry, path):
        assert StoredFile(store, manifest_id, entry).read() == path.read_bytes()


def test_a_look_at_the_end_fetches_one_chunk(large: tuple[RecordingStore, bytes, FileEntry, Path]) -> None:
    store, manifest_id, entry, path = large
    del store.log[:]
    with StoredFile(store, manifest_id, entry) as file:
        file.seek(-100, os.SEEK_END)
        assert file.read(100) == path.read_bytes()[-100:]
        assert file.read(100) == b""
        file.seek(-50, os.SEEK_END)
        file.read(10)
    assert store.verbs() == ["get"]


def test_reading_from_front_to_back_asks_seldom_and_keeps_little(
    large: tuple[RecordingStore, bytes, FileEntry, Path],
) -> None:
    store, manifest_id, entry, path = large
    del store.log[:]
    file = StoredFile(store, manifest_id, entry)
    assert b"".join(iter(lambda: file.read(65536), b"")) == path.read_bytes()
    assert len(store.verbs()) <= 2 + SIZE // AHEAD + 1
    assert sum(map(len, file._kept.values())) <= KEPT + AHEAD  # pyright: ignore[reportPrivateUsage] - memory is the point


def test_a_flipped_bit_is_never_served(large: tuple[RecordingStore, bytes, FileEntry, Path]) -> None:
    store, manifest_id, entry, _ = large
    second = list(file_chunks(entry))[1]
    location = store.catalog.chunks[second.chunk_id]
    store.memory.damage(pack_key(location.pack_id), location.offset + 5)
    try:
        file = StoredFile(store, manifest_id, entry)
        assert len(file.read(100) or b"") == 100
        file.seek(next(file_chunks(entry)).length)
        with pytest.raises(CorruptChunk):
            file.read(1)
    finally:
        store.memory.damage(pack_key(location.pack_id), location.offset + 5)


def test_chunks_that_are_not_as_long_as_they_say(large: tuple[RecordingStore, bytes, FileEntry, Path]) -> None:
    store, manifest_id, entry, _ = large
    first, *others = file_chunks(entry)
    forged = FileEntry(
        b"x", 0, 0, entry.size + 1, entry.digest, pack_chunks([first._replace(length=first.length + 1), *others])
    )
    with pytest.raises(BadManifest):
        StoredFile(store, manifest_id, forged).read(first.length + 1)


def test_a_closed_file_says_so(large: tuple[RecordingStore, bytes, FileEntry, Path]) -> None:
    store, manifest_id, entry, _ = large
    file = StoredFile(store, manifest_id, entry)
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.read(1)
