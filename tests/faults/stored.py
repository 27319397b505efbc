"""What a home's store holds, read without a server: the rows of its database, the packs, and all that is referenced."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from blake3 import blake3

from dstack.embedded.store_place import store_folder
from dstack.snapshots.blobs.local import LocalBlobStore
from dstack.snapshots.interfaces import ChunkLocation, PackIndex
from dstack.snapshots.listing import Leaf, walk_tree
from dstack.snapshots.manifests import DIRECTORY, DirectoryEntry, FileEntry, decode_directory, file_chunks
from dstack.snapshots.store import SnapshotStore
from tests.support.packs import verify_pack


class Rows:
    """The catalog as its rows have it; nothing is added."""

    def __init__(self, database: Path) -> None:
        with closing(sqlite3.connect(database)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            columns = "chunk_id, pack_id, offset, stored_length, raw_length, codec"
            found = connection.execute(f"SELECT {columns} FROM chunks").fetchall()
            self.chunks = {row[0]: ChunkLocation(*row[1:]) for row in found}
            self.packs = dict(connection.execute("SELECT pack_id, size FROM packs").fetchall())
            artifacts = connection.execute("SELECT DISTINCT manifest_id FROM artifacts")
            code = connection.execute("SELECT manifest_id FROM code_snapshots")
            self.referenced = {row[0] for row in (*artifacts, *code)}

    def missing(self, chunk_ids: Sequence[bytes]) -> set[bytes]:
        return {chunk_id for chunk_id in chunk_ids if chunk_id not in self.chunks}

    def locate(self, chunk_ids: Sequence[bytes]) -> Mapping[bytes, ChunkLocation]:
        return {chunk_id: self.chunks[chunk_id] for chunk_id in chunk_ids if chunk_id in self.chunks}

    def add(self, packs: Sequence[PackIndex]) -> None:
        raise AssertionError("nothing is added")


def assert_whole_store(home: Path) -> int:
    """No reference without its bytes, no row without its pack, no object without what it names, no pack that is half;
    how many snapshots are referenced."""
    rows, blobs = Rows(home / "server" / "dstack.db"), LocalBlobStore(store_folder(home))
    store = SnapshotStore(blobs, rows)
    held: set[bytes] = set()
    for info in blobs.list("packs/"):
        held.add(verify_pack(info.key, blobs.get(info.key)).pack_id)
    assert rows.packs.keys() <= held, "a pack that the catalog knows is not there"
    assert {place.pack_id for place in rows.chunks.values()} <= rows.packs.keys()
    for chunk_id, data in store.read_chunks(list(rows.chunks)):
        if bytes(data[:8]) == DIRECTORY:
            assert _named(chunk_id, bytes(data)) <= rows.chunks.keys(), (
                f"object {chunk_id.hex()} names what is not there"
            )
    for manifest_id in rows.referenced:
        _read(store, manifest_id)
    return len(rows.referenced)


def _named(object_id: bytes, data: bytes) -> set[bytes]:
    """The ids that a directory names."""
    directory = decode_directory(object_id, data)
    found = set(directory.pages)
    for entry in directory.entries:
        if isinstance(entry, DirectoryEntry):
            found.add(entry.tree_id)
        elif isinstance(entry, FileEntry):
            found |= {chunk.chunk_id for chunk in file_chunks(entry)}
    return found


def _read(store: SnapshotStore, manifest_id: bytes) -> None:
    """Every byte of a snapshot, against the BLAKE3 of each file."""
    root = store.root(manifest_id)
    store.links(root)
    files = 0
    for step in walk_tree(store, root):
        if not isinstance(step, Leaf):
            continue
        files += 1
        if isinstance(step.entry, FileEntry):
            whole = blake3()
            for chunk in file_chunks(step.entry):
                whole.update(store.read_chunk(chunk.chunk_id))
            assert whole.digest() == step.entry.digest
    assert files == root.files
