"""Looking for damage in a store: packs byte by byte, and what objects say of what they name.

Nothing here stops at the first thing that is wrong, and nothing is believed: neither the catalog nor a pack's name.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from typing import Final, Literal, NamedTuple

from dstack.sdk.blobs import BlobStore, Buffer
from dstack.snapshots import manifests
from dstack.snapshots.chunking import digest
from dstack.snapshots.errors import BadManifest, BadPack, CorruptChunk
from dstack.snapshots.interfaces import ChunkLocation, PackIndex, pack_key
from dstack.snapshots.manifests import AnyEntry, ChunkRef, DirectoryEntry, FileEntry
from dstack.snapshots.packs import HEADER, decode_chunk, parse_index, read_index

MAGIC_LENGTH: Final = 8
SPARSE: Final = 64 * 1024
"""Bytes. Where chunks are smaller than this on average, a pack is read whole to see how they begin."""
SECTOR: Final = 4096
"""Bytes that are read at once where the disk fails."""
_OBJECTS: Final = (manifests.ROOT, manifests.DIRECTORY, manifests.LINKS)


class Damage(NamedTuple):
    """What is wrong with a chunk, an object, a pack, or with what the catalog says of one (`row`).

    `id` is the chunk's, the object's or the pack's; `what` a part of a sentence.
    """

    kind: Literal["chunk", "object", "pack", "row"]
    id: bytes
    pack_id: bytes | None
    what: str


class Names(NamedTuple):
    """What an object names: other objects, and the files that stand in it. `pages` are objects, too."""

    objects: tuple[bytes, ...]
    pages: tuple[bytes, ...] = ()
    entries: tuple[AnyEntry, ...] = ()

    @property
    def borders(self) -> tuple[bytes, bytes]:
        """The first and the last name in a directory."""
        return (self.entries[0].name, self.entries[-1].name) if self.entries else (b"", b"")

    def chunks(self) -> Iterator[ChunkRef]:
        """The pieces of all files; one file may have a million."""
        for entry in self.entries:
            if isinstance(entry, FileEntry):
                yield from manifests.file_chunks(entry)


class PackCheck(NamedTuple):
    """`right` are the chunks whose bytes are theirs, and where they lie; `wrong` says what is the matter with others.

    `whole` says what is wrong with the pack itself, nothing where it is as it was written.
    """

    whole: str
    size: int
    right: dict[bytes, ChunkLocation]
    wrong: dict[bytes, str]


def begins_like_an_object(head: Buffer) -> bool:
    """Whether these may be the first bytes of an object; a file may begin so too."""
    return bytes(head[:MAGIC_LENGTH]) in _OBJECTS


def is_root(data: Buffer) -> bool:
    return bytes(data[:MAGIC_LENGTH]) == manifests.ROOT


def names_in(object_id: bytes, data: Buffer) -> Names:
    """What a root, a directory or links name. Raises BadManifest for what is none, or breaks a rule of the format."""
    match bytes(data[:MAGIC_LENGTH]):
        case manifests.ROOT:
            root = manifests.decode_root(object_id, data)
            return Names((root.tree_id, *([root.links] if root.links else [])))
        case manifests.LINKS:
            manifests.decode_links(object_id, data)
            return Names(())
        case _:
            return _of_directory(object_id, manifests.decode_directory(object_id, data))


def check_pack(pack_id: bytes, data: Buffer, rows: Mapping[bytes, ChunkLocation]) -> PackCheck:
    """Check a whole pack: every chunk that its own index or one of `rows`, the catalog's, says is in it."""
    key = pack_key(pack_id)
    view = memoryview(data)
    right: dict[bytes, ChunkLocation] = {}
    wrong: dict[bytes, str] = {}
    whole = "" if bytes(view[: len(HEADER)]) == HEADER else "it does not begin like a pack of version 1"
    try:
        index = located(PackIndex(pack_id, len(data), parse_index(key, data, len(data))))
    except BadPack as error:
        whole = whole or error.detail
        index = {}
    # The row comes last: it is believed where it is right as well, and tried where the index says nothing.
    for places in (index, rows):
        for chunk_id, place in places.items():
            try:
                decode_chunk(chunk_id, place, _stored(view, place))
            except CorruptChunk as error:
                if chunk_id not in right:
                    wrong[chunk_id] = error.detail
            else:
                right[chunk_id] = place
                wrong.pop(chunk_id, None)
    if not whole and digest(data) != pack_id:
        whole = "its bytes do not have the BLAKE3 that names it"
    return PackCheck(whole, len(data), right, wrong)


def read_through(blobs: BlobStore, key: str) -> bytes | bytearray:
    """All bytes of a blob, zeros in place of those that the disk cannot read. Raises KeyError."""
    try:
        return blobs.get(key)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
    found = blobs.stat(key)
    if found is None:
        raise KeyError(key)
    data = bytearray(found.size)
    for offset in range(0, found.size, SECTOR):
        try:
            piece = blobs.get(key, offset=offset, length=SECTOR)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        else:
            data[offset : offset + len(piece)] = piece
    return data


def glance_at_pack(blobs: BlobStore, pack_id: bytes, rows: Mapping[bytes, ChunkLocation]) -> PackCheck:
    """As `check_pack` by the pack's tail alone, where it has one that is right. Raises KeyError where it is gone."""
    key = pack_key(pack_id)
    found = blobs.stat(key)
    if found is None:
        raise KeyError(key)
    try:
        index = located(read_index(blobs, key, found.size))
    except (BadPack, OSError):
        return check_pack(pack_id, read_through(blobs, key), rows)
    wrong = {chunk_id: "the pack's own index does not have it" for chunk_id in rows if chunk_id not in index}
    return PackCheck("", found.size, index, wrong)


def located(index: PackIndex) -> dict[bytes, ChunkLocation]:
    """Where the chunks of a pack lie, by its index."""
    return {
        entry.chunk_id: ChunkLocation(index.pack_id, entry.offset, entry.stored_length, entry.raw_length, entry.codec)
        for entry in index.chunks
    }


def possible_objects(blobs: BlobStore, rows: Mapping[bytes, ChunkLocation]) -> Iterator[bytes]:
    """Of chunks that lie in one pack, those that begin like an object. Raises KeyError where the pack is gone.

    A compressed chunk counts too: its first bytes do not show how it begins.
    """
    places = sorted(rows.items(), key=lambda item: item[1].offset)
    if not places:
        return
    key = pack_key(places[0][1].pack_id)
    is_dense = sum(place.stored_length for _, place in places) < SPARSE * len(places)
    data = read_through(blobs, key) if is_dense else None
    for chunk_id, place in places:
        if place.codec or begins_like_an_object(_head(blobs, key, max(0, place.offset), data)):
            yield chunk_id


def _head(blobs: BlobStore, key: str, offset: int, data: Buffer | None) -> Buffer:
    if data is not None:
        return data[offset : offset + MAGIC_LENGTH]
    try:
        return blobs.get(key, offset=offset, length=MAGIC_LENGTH)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""  # whatever it was, it cannot be read


def _of_directory(object_id: bytes, directory: manifests.Directory) -> Names:
    if directory.pages and directory.entries:
        raise BadManifest(object_id, "it has pages and entries")
    last = b""
    for entry in directory.entries:
        if entry.name <= last:
            raise BadManifest(object_id, f"its names are not in order at {entry.name!r}")
        last = entry.name
    folders = tuple(entry.tree_id for entry in directory.entries if isinstance(entry, DirectoryEntry))
    return Names(folders, directory.pages, directory.entries)


def _stored(view: memoryview, place: ChunkLocation) -> memoryview:
    if place.offset < 0 or place.stored_length < 0:
        return view[:0]
    return view[place.offset : place.offset + place.stored_length]
