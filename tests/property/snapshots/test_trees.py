"""Any folder comes back bit by bit, whatever its names and however it changed between two saves; any flipped bit is
found."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import given, note, settings
from hypothesis import strategies as st

from dstack.snapshots.capture import save
from dstack.snapshots.chunking import Chunker, ChunkerParameters
from dstack.snapshots.errors import DamagedStore
from dstack.snapshots.listing import entries
from dstack.snapshots.materialise import Materialiser
from dstack.snapshots.restore import restore
from dstack.snapshots.statcache import FileCache, unchanged
from dstack.snapshots.writer import PackWriter
from tests.contract.snapshots import spec_reader
from tests.support.stores import RecordingStore, later
from tests.support.trees import described

NAMES = st.one_of(
    st.sampled_from(
        [b"a", b"b", b"a-b", b"a.b", b"A", b" ", b"-rf", b"\n", b"\xff\xfe", b"...", "ü".encode(), b"x" * 255]
    ),
    st.binary(min_size=1, max_size=12).filter(lambda name: not set(name) & set(b"/\0") and name not in (b".", b"..")),
)
MODES = st.integers(0, 0o777).map(lambda bits: bits | 0o400)
TIMES = st.integers(-(10**18), 17 * 10**17)
"""Nanoseconds; not in the future, where a file never counts as settled."""
SIZES = st.one_of(st.just(0), st.integers(1, 50), st.sampled_from([262_143, 262_144, 262_145, 2_097_153]))


@st.composite
def files(draw: st.DrawFn) -> tuple[str, int, int, int, int]:
    """Kind, size, seed of the content, mode, time."""
    return "file", draw(SIZES), draw(st.integers(0, 3)), draw(MODES), draw(TIMES)


LINKS = st.tuples(st.just("link"), st.one_of(st.just(b".."), NAMES, st.just(b"/etc/passwd")), TIMES)
TREES = st.recursive(
    st.one_of(files(), LINKS),
    lambda inner: st.tuples(st.just("folder"), st.dictionaries(NAMES, inner, max_size=4), MODES, TIMES),
    max_leaves=12,
)
FOLDERS = st.dictionaries(NAMES, TREES, max_size=5)


def build(path: bytes, tree: dict[bytes, object]) -> None:
    os.mkdir(path)
    for name, node in tree.items():
        at = path + b"/" + name
        match node:
            case ("file", int(size), int(seed), int(mode), int(mtime)):
                with open(at, "wb") as file:
                    file.write(content(size, seed))
                os.chmod(at, mode)
                os.utime(at, ns=(mtime, mtime))
            case ("link", bytes(target), int(mtime)):
                os.symlink(target, at)
                os.utime(at, ns=(mtime, mtime), follow_symlinks=False)
            case ("folder", dict(below), int(mode), int(mtime)):
                build(at, below)
                os.chmod(at, mode | 0o700)
                os.utime(at, ns=(mtime or 1, mtime or 1))  # a folder's time of 0 means "not recorded"
            case _:
                raise AssertionError(node)


def content(size: int, seed: int) -> bytes:
    return random.Random(f"{size} {seed}").randbytes(size)


@contextmanager
def scratch() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp())
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@settings(max_examples=60, deadline=None)
@given(tree=FOLDERS)
def test_any_folder_comes_back(tree: dict[bytes, object]) -> None:
    with scratch() as folder:
        store = RecordingStore()
        build(bytes(folder / "in"), tree)
        saved = save(folder / "in", store)
        expected = described(folder / "in")
        for name, put_back in {"restored": restore, "unpacked": lambda s, m, t: Materialiser(s).unpack(m, t)}.items():
            put_back(store, saved.manifest_id, folder / name)
            assert described(folder / name) == expected
        assert sorted(entry.path for entry in entries(store, saved.manifest_id)) == sorted(expected)
        blobs = {info.key: store.blobs.get(info.key) for info in store.blobs.list("")}
        spec_reader.restore(blobs, saved.manifest_id, folder / "by the page")
        assert described(folder / "by the page") == expected
        again = save(folder / "restored", RecordingStore())
        assert again.content_id == saved.content_id


@settings(max_examples=40, deadline=None)
@given(before=FOLDERS, after=FOLDERS, live=st.booleans())
def test_a_cache_never_changes_what_is_saved(
    before: dict[bytes, object], after: dict[bytes, object], live: bool
) -> None:
    with scratch() as folder:
        store, cache = RecordingStore(), FileCache(folder / "cache")
        build(bytes(folder / "in"), before)
        first = save(folder / "in", store, cache=cache, live=live, clock=later())
        assert unchanged(folder / "in", FileCache.load(folder / "cache")) == first._replace(stored=0)
        shutil.rmtree(folder / "in")
        build(bytes(folder / "in"), {**before, **after})
        second = save(folder / "in", store, cache=FileCache.load(folder / "cache"), clock=later())
        fresh = save(folder / "in", RecordingStore(), clock=later())
        assert second == fresh._replace(stored=second.stored)
        restore(store, second.manifest_id, folder / "out")
        assert described(folder / "out") == described(folder / "in")


@settings(max_examples=60, deadline=None)
@given(tree=FOLDERS, data=st.data())
def test_any_flipped_bit_is_found_or_does_not_matter(tree: dict[bytes, object], data: st.DataObject) -> None:
    """A bit of the frame of a pack is not read with a catalog at hand; whatever is read is whole or an error."""
    with scratch() as folder:
        store = RecordingStore()
        build(bytes(folder / "in"), tree)
        saved = save(folder / "in", store)
        (key, *_) = (info.key for info in store.blobs.list(""))
        size = len(store.blobs.get(key))  # differs with the clock in the times of folders: no bound for a draw
        position = data.draw(st.integers(0, 10**6), "position in millionths") * (size - 1) // 10**6
        store.memory.damage(key, position, 1 << data.draw(st.integers(0, 7), "bit"))
        in_chunk = any(
            location.offset <= position < location.offset + location.stored_length
            for location in store.catalog.chunks.values()
        )
        try:
            restore(store, saved.manifest_id, folder / "out")
        except DamagedStore as error:
            note(str(error))
            assert in_chunk
        else:
            assert not in_chunk
            assert described(folder / "out") == described(folder / "in")


@given(data=st.binary(max_size=6000), window=st.integers(512, 5000))
def test_cuts_depend_on_the_bytes_alone(data: bytes, window: int) -> None:
    chunker = Chunker(ChunkerParameters(minimum=64, average=256, maximum=1024))
    whole = chunker.cut(memoryview(data), final=True)
    assert sum(whole) == len(data)
    assert all(64 <= length <= 1024 for length in whole[:-1])
    done, cuts = 0, list[int]()
    size = max(window, 1024)
    while done < len(data):
        part = memoryview(data)[done : done + size]
        lengths = chunker.cut(part, final=done + len(part) == len(data))
        cuts += lengths
        done += sum(lengths)
    assert cuts == whole


@given(chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=40), target=st.integers(20, 200))
def test_a_writer_stores_each_chunk_once_and_loses_none(chunks: list[bytes], target: int) -> None:
    from unittest import mock

    from dstack.snapshots.chunking import digest

    store = RecordingStore()
    with (
        mock.patch("dstack.snapshots.writer.PACK_TARGET", target),
        mock.patch("dstack.snapshots.writer.PENDING_CHUNKS", 3),
        PackWriter(store) as writer,
    ):
        for chunk in chunks:
            writer.add(digest(chunk), chunk)
        writer.finish()
        assert writer.stored == sum(info.size for info in store.blobs.list(""))
    found = {bytes(data) for _, data in store.read_chunks(map(digest, chunks))}
    assert found == set(chunks)
    in_packs = sum(location.stored_length for location in store.catalog.chunks.values())
    assert in_packs == sum(map(len, set(chunks)))
