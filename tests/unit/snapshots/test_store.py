"""Packs and the reading of chunks out of them."""

from __future__ import annotations

import errno
import os
import tracemalloc
from collections.abc import Mapping, Sequence

import pytest
import zstandard

from dstack.snapshots.catalog import MemoryCatalog
from dstack.snapshots.chunking import digest
from dstack.snapshots.errors import BadPack, CorruptChunk, MissingChunk, SnapshotError
from dstack.snapshots.interfaces import ChunkEntry, ChunkLocation, PackIndex, pack_key
from dstack.snapshots.packs import FOOTER, MAX_CHUNK, PackBuilder, read_index
from dstack.snapshots.store import RANGE, SnapshotStore
from tests.support.packs import put_pack, rebuild, verify_pack
from tests.support.stores import RecordingStore


def test_neighbours_come_with_one_read(store: RecordingStore) -> None:
    chunks = [os.urandom(5000) for _ in range(100)]
    put_pack(store, *chunks)
    wanted = [chunk for number, chunk in enumerate(chunks) if number % 3]
    store.log.clear()
    found = dict(store.read_chunks([digest(chunk) for chunk in reversed(wanted)]))
    assert {bytes(data) for data in found.values()} == set(wanted)
    assert store.verbs() == ["get"]


def test_what_lies_far_apart_is_not_read_along(store: RecordingStore) -> None:
    first, between, last = os.urandom(10), os.urandom(400_000), os.urandom(10)
    put_pack(store, first, between, last)
    store.log.clear()
    assert [bytes(data) for _, data in store.read_chunks([digest(last), digest(first)])] == [first, last]
    assert store.verbs() == ["get", "get"]


def test_a_read_has_an_upper_bound(store: RecordingStore) -> None:
    chunks = [os.urandom(RANGE // 4) for _ in range(9)]
    put_pack(store, *chunks)
    store.log.clear()
    assert sum(len(data) for _, data in store.read_chunks(map(digest, chunks))) == 9 * (RANGE // 4)
    assert store.verbs() == ["get", "get", "get"]


def test_each_chunk_comes_once(store: RecordingStore) -> None:
    put_pack(store, b"one", b"two")
    ids = [digest(b"two"), digest(b"one"), digest(b"two")]
    assert [found for found, _ in store.read_chunks(ids)] == [digest(b"one"), digest(b"two")]


def test_a_chunk_that_no_pack_has(store: RecordingStore) -> None:
    put_pack(store, b"one")
    with pytest.raises(MissingChunk, match=digest(b"two").hex()):
        list(store.read_chunks([digest(b"one"), digest(b"two")]))


def test_a_pack_that_is_gone(store: RecordingStore) -> None:
    key = put_pack(store, b"one")
    store.blobs.delete([key])
    with pytest.raises(MissingChunk, match=f"its pack {key[-64:]} is gone"):
        store.read_chunk(digest(b"one"))


def test_every_flipped_bit_of_a_chunk_is_found(store: RecordingStore) -> None:
    chunk = b"sixteen bytes..."
    key = put_pack(store, chunk)
    for position in range(len(chunk)):
        for bit in range(8):
            store.memory.damage(key, 8 + position, 1 << bit)
            with pytest.raises(CorruptChunk, match=digest(chunk).hex()):
                store.read_chunk(digest(chunk))
            store.memory.damage(key, 8 + position, 1 << bit)
    assert store.read_chunk(digest(chunk)) == chunk


def test_a_pack_cut_short(store: RecordingStore) -> None:
    key = put_pack(store, os.urandom(1000))
    data = store.blobs.get(key)
    store.blobs.delete([key])
    store.blobs.put(key, data[:500])
    with pytest.raises(CorruptChunk, match="492 of its 1000 stored bytes"):
        store.read_chunk(next(iter(store.catalog.chunks)))


def test_a_catalog_that_lies(store: RecordingStore) -> None:
    key = put_pack(store, b"one", b"two")
    pack_id = bytes.fromhex(key[-64:])
    catalog = MemoryCatalog()
    catalog.add([PackIndex(pack_id, 0, (ChunkEntry(digest(b"one"), 11, 3, 3), ChunkEntry(digest(b"two"), -1, 0, 3)))])
    liar = SnapshotStore(store.blobs, catalog)
    for chunk in (b"one", b"two"):
        with pytest.raises(CorruptChunk):
            liar.read_chunk(digest(chunk))


@pytest.mark.parametrize("codec", [1, 2, 99])
def test_an_unknown_or_wrong_codec_is_an_error_of_that_chunk(store: RecordingStore, codec: int) -> None:
    key = put_pack(store, b"plain bytes")
    catalog = MemoryCatalog()
    entry = ChunkEntry(digest(b"plain bytes"), 8, 11, 11, codec)
    catalog.add([PackIndex(bytes.fromhex(key[-64:]), 0, (entry,))])
    with pytest.raises(CorruptChunk, match=r"zstd says|is not known"):
        SnapshotStore(store.blobs, catalog).read_chunk(entry.chunk_id)


@pytest.mark.parametrize("told", [True, False])
def test_a_chunk_that_would_become_more_than_its_index_says(store: RecordingStore, told: bool) -> None:
    """A few bytes that would be gigabytes are refused before they are: `told` is whether their frame says how many."""
    bomb = zstandard.ZstdCompressor(write_content_size=told).compress(bytes(200_000_000))
    assert len(bomb) < 100_000
    key = put_pack(store, bomb)
    catalog = MemoryCatalog()
    entry = ChunkEntry(digest(bomb), 8, len(bomb), 100, 1)
    catalog.add([PackIndex(bytes.fromhex(key[-64:]), 0, (entry,))])
    tracemalloc.start()
    try:
        with pytest.raises(CorruptChunk, match="zstd"):
            SnapshotStore(store.blobs, catalog).read_chunk(entry.chunk_id)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_a_lost_catalog_is_made_again_from_the_packs(store: RecordingStore) -> None:
    chunks = [os.urandom(100) for _ in range(3000)]
    put_pack(store, *chunks[:2999])
    put_pack(store, *chunks[2999:])
    catalog = MemoryCatalog()
    assert rebuild(store.blobs, catalog) == 2
    assert catalog.locate(list(map(digest, chunks))) == dict(store.catalog.chunks)


def test_damage_anywhere_in_a_pack_is_found(store: RecordingStore) -> None:
    key = put_pack(store, b"first chunk", b"second chunk")
    size = len(store.blobs.get(key))
    assert verify_pack(key, store.blobs.get(key)).size == size
    for position in range(size):
        store.memory.damage(key, position)
        with pytest.raises((BadPack, CorruptChunk)):
            verify_pack(key, store.blobs.get(key))
        store.memory.damage(key, position)


def test_a_damaged_index_is_never_taken_for_one(store: RecordingStore) -> None:
    key = put_pack(store, b"first chunk", b"second chunk")
    size = len(store.blobs.get(key))
    for position in range(8 + 11 + 12, size):
        store.memory.damage(key, position)
        with pytest.raises(BadPack):
            read_index(store.blobs, key, size)
        store.memory.damage(key, position)


def forged_index(entries: list[ChunkEntry]) -> bytes:
    """A pack whose index is intact and wrong."""
    import msgspec

    index = msgspec.msgpack.encode(entries)
    return b"DSTACKp\x01" + b"abc" + index + FOOTER.pack(digest(index), len(index), b"DSTACKx\x01")


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [ChunkEntry(b"short", 8, 3, 3)],
        [ChunkEntry(b"i" * 32, 9, 2, 2)],
        [ChunkEntry(b"i" * 32, 8, 4, 4)],
        [ChunkEntry(b"i" * 32, 8, 3, 3), ChunkEntry(b"i" * 32, 8, 3, 3)],
        [ChunkEntry(b"i" * 32, 8, 3, 3), ChunkEntry(b"j" * 32, 11, 0, 0)],
    ],
)
def test_an_index_that_does_not_describe_its_bytes(store: RecordingStore, entries: list[ChunkEntry]) -> None:
    data = forged_index(entries)
    key = pack_key(digest(data))
    store.blobs.put(key, data)
    with pytest.raises(BadPack, match="does not describe its bytes"):
        rebuild(store.blobs, MemoryCatalog())
    with pytest.raises(BadPack):
        verify_pack(key, data)


@pytest.mark.parametrize("key", ["packs/ab/name", "packs/00/" + "ab" * 32, "ab" * 32, "other/ab/" + "ab" * 32])
def test_a_pack_under_another_name(store: RecordingStore, key: str) -> None:
    good = store.blobs.get(put_pack(store, b"chunk"))
    with pytest.raises(BadPack, match="its name is not that of a pack"):
        verify_pack(key, good)
    other = pack_key(b"\xab" * 32)
    with pytest.raises(BadPack, match="do not have the BLAKE3"):
        verify_pack(other, good)


@pytest.mark.parametrize("data", [b"", b"short", b"x" * 48, b"x" * 200])
def test_what_is_no_pack(store: RecordingStore, data: bytes) -> None:
    key = pack_key(digest(data))
    store.blobs.put(key, data)
    with pytest.raises(BadPack):
        read_index(store.blobs, key, len(data))
    with pytest.raises(BadPack):
        verify_pack(key, data)


def test_an_object_too_large_for_any_pack() -> None:
    with pytest.raises(SnapshotError, match="does not fit into a pack"):
        PackBuilder().add(b"i" * 32, bytes(MAX_CHUNK + 1))


class MovingCatalog(MemoryCatalog):
    """Tells where chunks were, once; what is really true after that."""

    def __init__(self, before: MemoryCatalog) -> None:
        super().__init__()
        self.before: MemoryCatalog | None = before
        self.asked: list[int] = []

    def locate(self, chunk_ids: Sequence[bytes]) -> Mapping[bytes, ChunkLocation]:
        self.asked.append(len(chunk_ids))
        before, self.before = self.before, None
        return before.locate(chunk_ids) if before is not None else super().locate(chunk_ids)


def test_chunks_whose_pack_was_removed_under_the_reader_are_sought_once_more(store: RecordingStore) -> None:
    chunks = [os.urandom(5000) for _ in range(50)]
    old = put_pack(store, *chunks[:25])
    put_pack(store, *chunks[25:])
    moved = MovingCatalog(store.catalog)
    new = PackBuilder()
    for chunk in chunks:
        new.add(digest(chunk), chunk)
    data, index = new.seal()
    store.blobs.put(pack_key(index.pack_id), data)
    moved.add([index])
    store.blobs.delete([old])
    reader = SnapshotStore(store.blobs, moved)
    assert {bytes(data) for _, data in reader.read_chunks(map(digest, chunks))} == set(chunks)
    assert moved.asked == [50, 25], "only what was not found is asked for again, and together"


def test_a_chunk_that_is_gone_for_good_is_missing_after_the_second_look(store: RecordingStore) -> None:
    store.blobs.delete([put_pack(store, b"one")])
    catalog = MovingCatalog(store.catalog)
    with pytest.raises(MissingChunk, match=digest(b"one").hex()):
        SnapshotStore(store.blobs, catalog).read_chunk(digest(b"one"))
    assert catalog.asked == [1, 1]


def test_what_is_wrong_stands_in_the_place_of_the_bytes(store: RecordingStore) -> None:
    gone = put_pack(store, b"gone")
    key = put_pack(store, b"kept", b"hurt")
    store.blobs.delete([gone])
    store.memory.damage(key, 12)
    found = dict(store.try_chunks([digest(name) for name in (b"gone", b"kept", b"hurt", b"none")]))
    assert found.pop(digest(b"kept")) == b"kept"
    assert {chunk_id: type(error) for chunk_id, error in found.items()} == {
        digest(b"gone"): MissingChunk,
        digest(b"hurt"): CorruptChunk,
        digest(b"none"): MissingChunk,
    }


def test_a_sector_that_the_disk_cannot_read_has_the_name_of_its_chunk(
    store: RecordingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_pack(store, b"one")

    def get(key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(store.blobs, "get", get)
    with pytest.raises(CorruptChunk, match=f"{digest(b'one').hex()}.*Input/output error"):
        store.read_chunk(digest(b"one"))
