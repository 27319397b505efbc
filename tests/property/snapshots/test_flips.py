"""Ten thousand random damages to a small store: a read gives the right bytes, or an error that names what is hurt."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import zstandard

from dstack.snapshots.blobs.memory import MemoryBlobStore
from dstack.snapshots.catalog import MemoryCatalog
from dstack.snapshots.chunking import DEFAULT, digest
from dstack.snapshots.errors import BadManifest, CorruptChunk, DamagedStore, MissingChunk
from dstack.snapshots.interfaces import ChunkLocation, PackIndex, pack_key
from dstack.snapshots.listing import Leaf, walk_tree
from dstack.snapshots.manifests import (
    ChunkRef,
    DirectoryEntry,
    Encoded,
    FileEntry,
    Root,
    content_id,
    encode_links,
    encode_root,
    file_chunks,
    pack_chunks,
)
from dstack.snapshots.packs import CODEC_STORED, CODEC_ZSTD, PackBuilder
from dstack.snapshots.store import SnapshotStore
from tests.support.objects import encode_directory

DAMAGES = 10_000
NAMES = (b"empty", b"model", b"small", b"text")


class Small(NamedTuple):
    """A store with one snapshot, whose files are `files` by path."""

    blobs: MemoryBlobStore
    rows: dict[bytes, ChunkLocation]
    manifest_id: bytes
    files: dict[bytes, bytes]


class Rows(MemoryCatalog):
    """A catalog of the rows it is given."""

    def __init__(self, rows: dict[bytes, ChunkLocation]) -> None:
        super().__init__()
        self._chunks = rows


def sealed(chunks: Sequence[tuple[bytes, bytes, int]]) -> tuple[bytes, PackIndex]:
    """A pack of (raw bytes, stored bytes, codec)."""
    builder = PackBuilder()
    for raw, stored, codec in chunks:
        builder.add_stored(digest(raw), stored, len(raw), codec)
    data, index = builder.seal()
    return bytes(data), index


def make(rng: random.Random) -> Small:
    """Files of no, one and several chunks in two folders; data, packed data and objects in packs of their own."""
    pieces = [rng.randbytes(rng.randrange(100, 400)) for _ in range(4)]
    text = b"loss 0.25 accuracy 0.5\n" * 20
    model, small = b"".join(pieces), rng.randbytes(90)
    files = dict(zip(NAMES, (b"", model, small, text), strict=True))
    entries = [
        FileEntry(b"empty", 0o644, 1, 0, digest(b"")),
        FileEntry(
            b"model", 0o644, 2, len(model), digest(model), pack_chunks(ChunkRef(digest(p), len(p)) for p in pieces)
        ),
        FileEntry(b"small", 0o644, 3, len(small), digest(small)),
        FileEntry(b"text", 0o644, 4, len(text), digest(text)),
    ]
    below = encode_directory(entries)
    size = sum(map(len, files.values()))
    folder = DirectoryEntry(b"out", 0o755, 5, below[-1].id, content_id(entries), len(entries), size)
    top = encode_directory([folder, FileEntry(b"readme", 0o644, 6, len(small), digest(small))])
    links = encode_links([[b"out/small", b"readme"]])
    chunker = DEFAULT
    root = encode_root(Root(top[-1].id, content_id([folder]), 0o755, 7, 5, size + len(small), chunker, links.id))
    blobs, catalog = MemoryBlobStore(), MemoryCatalog()
    objects: list[Encoded] = [*below, *top, links, root]
    plain = sealed([(piece, piece, CODEC_STORED) for piece in (*pieces[:2], small)])
    packed = sealed([(raw, zstandard.compress(raw), CODEC_ZSTD) for raw in (text, *pieces[2:])])
    last = sealed([(item.data, item.data, CODEC_STORED) for item in objects])
    for data, index in (plain, packed, last):
        blobs.put(pack_key(index.pack_id), data)
        catalog.add([index])
    found = {b"out/" + name: data for name, data in files.items()} | {b"readme": small}
    ids = [entry.chunk_id for _, index in (plain, packed, last) for entry in index.chunks]
    return Small(blobs, dict(catalog.locate(ids)), root.id, found)


def read_everything(store: SnapshotStore, manifest_id: bytes) -> tuple[dict[bytes, bytes], list[DamagedStore]]:
    """Each file that can be read, and what was raised in the place of the others."""
    files: dict[bytes, bytes] = {}
    errors: list[DamagedStore] = []
    try:
        root = store.root(manifest_id)
        store.links(root)
        for step in walk_tree(store, root):
            if isinstance(step, Leaf) and isinstance(step.entry, FileEntry):
                try:
                    files[step.path] = read_file(store, step.entry)
                except DamagedStore as error:
                    errors.append(error)
    except DamagedStore as error:
        errors.append(error)
    return files, errors


def read_file(store: SnapshotStore, entry: FileEntry) -> bytes:
    chunks = list(file_chunks(entry))
    found = dict(store.read_chunks(chunk.chunk_id for chunk in chunks))
    return b"".join(bytes(found[chunk.chunk_id]) for chunk in chunks)


def flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def hurt(rng: random.Random, small: Small) -> tuple[str, MemoryBlobStore, dict[bytes, ChunkLocation]]:
    """The store with one thing wrong, and what."""
    blobs, rows = MemoryBlobStore(), dict(small.rows)
    kept = {info.key: small.blobs.get(info.key) for info in small.blobs.list("packs/")}
    kind = rng.choices(["bit", "row", "cut", "gone", "lost"], [60, 30, 6, 2, 2])[0]
    key = rng.choice(sorted(kept))
    chunk_id = rng.choice(sorted(rows))
    match kind:
        case "bit":
            kept[key] = flip(kept[key], rng)
        case "cut":
            kept[key] = kept[key][: rng.randrange(len(kept[key]))]
        case "gone":
            del kept[key]
        case "lost":
            del rows[chunk_id]
        case _:
            rows = with_flipped_row(rng, rows, chunk_id)
    for name, data in kept.items():
        blobs.put(name, data)
    return kind, blobs, rows


def with_flipped_row(
    rng: random.Random, rows: dict[bytes, ChunkLocation], chunk_id: bytes
) -> dict[bytes, ChunkLocation]:
    """One bit of one column is another. Numbers are as the database keeps them: 64 and 32 bits with a sign."""
    place = rows[chunk_id]
    column = rng.choice(["chunk", "pack_id", "offset", "stored_length", "raw_length", "codec"])
    if column == "chunk":
        del rows[chunk_id]
        return {**rows, flip(chunk_id, rng): place}
    if column == "pack_id":
        return {**rows, chunk_id: ChunkLocation(flip(place.pack_id, rng), *list(_numbers(place).values()))}
    bit = rng.randrange(64 if column == "offset" else 32)
    value = _numbers(place)[column] ^ (1 << bit)
    width = 1 << (64 if column == "offset" else 32)
    value -= width if value >= width // 2 else 0
    return {**rows, chunk_id: ChunkLocation(place.pack_id, **(_numbers(place) | {column: value}))}


def _numbers(place: ChunkLocation) -> dict[str, int]:
    return {
        "offset": place.offset,
        "stored_length": place.stored_length,
        "raw_length": place.raw_length,
        "codec": place.codec,
    }


def test_every_read_gives_the_right_bytes_or_names_what_is_damaged() -> None:
    rng = random.Random(20260726)
    small = make(rng)
    whole, none = read_everything(SnapshotStore(small.blobs, Rows(small.rows)), small.manifest_id)
    assert whole == small.files
    assert not none
    known = {chunk_id.hex() for chunk_id in small.rows}
    found: Counter[tuple[str, bool]] = Counter()
    for number in range(DAMAGES):
        kind, blobs, rows = hurt(rng, small)
        files, errors = read_everything(SnapshotStore(blobs, Rows(rows)), small.manifest_id)
        wrong = [path for path, data in files.items() if data != small.files[path]]
        assert not wrong, f"damage {number} ({kind}) was served: {wrong}"
        assert errors or files == small.files, f"damage {number} ({kind}) hides files without a word"
        for error in errors:
            assert isinstance(error, (CorruptChunk, MissingChunk, BadManifest))
            assert _named(error) in known, f"damage {number} ({kind}) is told without its object: {error}"
            assert _named(error) in str(error)
        found[kind, bool(errors)] += 1
    assert found["gone", False] == found["lost", False] == 0, "what is gone was read all the same"
    assert sum(count for (_, noticed), count in found.items() if noticed) > DAMAGES * 0.6, found


def test_no_flipped_bit_of_a_chunk_is_missed() -> None:
    """Every byte of every chunk, one bit each: header, index and footer apart, there is nothing that nobody checks."""
    rng = random.Random(7)
    small = make(rng)
    for chunk_id, place in small.rows.items():
        key = pack_key(place.pack_id)
        data = small.blobs.get(key)
        for offset in range(place.offset, place.offset + place.stored_length):
            blobs = MemoryBlobStore()
            blobs.put(key, data[:offset] + bytes([data[offset] ^ 1 << rng.randrange(8)]) + data[offset + 1 :])
            found = dict(SnapshotStore(blobs, Rows(small.rows)).try_chunks([chunk_id]))[chunk_id]
            assert isinstance(found, CorruptChunk), f"byte {offset} of {key}"
            assert chunk_id.hex() in str(found)


def _named(error: DamagedStore) -> str:
    if isinstance(error, BadManifest):
        return error.object_id.hex()
    assert isinstance(error, (CorruptChunk, MissingChunk))
    return error.chunk_id.hex()
