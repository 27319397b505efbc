"""The objects of a snapshot: root, directories, links. All are chunks, named by the BLAKE3 of their bytes.

    root ──▶ directory ──▶ directory (sub-folder, or a page of a big folder) ──▶ chunks of files
      └────▶ links

An object is 8 bytes of magic ("DSTACK", kind, version) and one canonical msgpack value. A changed file rewrites the
page it stands on and the folders above it, never the whole list. See docs/formats/snapshots.md.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, TypeVar

import msgspec
from blake3 import blake3

from dstack.sdk.blobs import Buffer
from dstack.snapshots.chunking import ID_LENGTH, ChunkerParameters, digest
from dstack.snapshots.errors import BadManifest

ROOT: Final = b"DSTACKr\x01"
DIRECTORY: Final = b"DSTACKd\x01"
LINKS: Final = b"DSTACKl\x01"
CONTENT: Final = b"DSTACKc\x01"
"""Stands before what a content id is the BLAKE3 of; no object begins with it."""

LINK_MODE: Final = 0o777
MAX_CHUNKS: Final = 1_500_000
"""Chunks of one file: its list must fit into a pack. About 1.9 TiB."""
PAGE_DIVISOR: Final = 256
PAGE_ENTRIES: Final = 4096
PAGE_CHUNKS: Final = 16384

T = TypeVar("T")

_CHUNK_REF: Final = struct.Struct(">32sI")


class FileEntry(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """A regular file. `mode` has the twelve permission bits, `mtime` is nanoseconds UTC.

    `chunks` is empty where the file is one chunk (its id is then `digest`) or has no bytes; else 36 bytes per chunk,
    see `pack_chunks`. `holes` is offset, length, offset, length, …
    """

    name: bytes
    mode: int
    mtime: int
    size: int
    digest: bytes
    chunks: bytes = b""
    holes: tuple[int, ...] = ()


class SymlinkEntry(msgspec.Struct, frozen=True, array_like=True, tag=1):
    name: bytes
    mode: int
    mtime: int
    target: bytes


class DirectoryEntry(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A folder; `files` and `size` count everything below it. An `mtime` of 0 was not recorded."""

    name: bytes
    mode: int
    mtime: int
    tree_id: bytes
    content_id: bytes
    files: int
    size: int


AnyEntry = FileEntry | SymlinkEntry | DirectoryEntry


class Root(msgspec.Struct, frozen=True, array_like=True):
    """The object whose id is the manifest id. `links` is the id of the hard-link groups, or empty."""

    tree_id: bytes
    content_id: bytes
    mode: int
    mtime: int
    files: int
    size: int
    chunker: ChunkerParameters
    links: bytes = b""


class Directory(msgspec.Struct, frozen=True, array_like=True):
    """Either the ids of pages (each a directory of entries) or the entries themselves."""

    pages: tuple[bytes, ...]
    entries: tuple[AnyEntry, ...]


class Encoded(NamedTuple):
    """An object ready to be stored."""

    id: bytes
    data: bytes


class ChunkRef(NamedTuple):
    chunk_id: bytes
    length: int


_encoder = msgspec.msgpack.Encoder()
_root_decoder = msgspec.msgpack.Decoder(Root)
_directory_decoder = msgspec.msgpack.Decoder(Directory)
_links_decoder = msgspec.msgpack.Decoder(tuple[tuple[bytes, ...], ...])
_entries_decoder = msgspec.msgpack.Decoder(list[FileEntry | SymlinkEntry])


def encode_root(root: Root) -> Encoded:
    return _encode(ROOT, root)


class WrittenDirectory(NamedTuple):
    """The ids of a folder whose objects were written; `pages` has those of its pages, 32 bytes each."""

    tree_id: bytes
    content_id: bytes
    pages: bytes


def write_directory(entries: Iterable[AnyEntry], count: int, write: Callable[[Encoded], None]) -> WrittenDirectory:
    """Write the objects of a folder of `count` entries, which come sorted by name; one page is in memory at a time."""
    contents = _Contents(count)
    pages: list[bytes] = []
    held: Encoded | None = None
    for page in _pages(entries):
        contents.add(page)
        if held is not None:
            write(held)
        held = _encode(DIRECTORY, Directory((), tuple(page)))
        pages.append(held.id)
    if held is None:
        raise AssertionError("a folder has one page at least")
    write(held)
    if len(pages) == 1:
        return WrittenDirectory(held.id, contents.digest(), b"")
    whole = _encode(DIRECTORY, Directory(tuple(pages), ()))
    write(whole)
    return WrittenDirectory(whole.id, contents.digest(), b"".join(pages))


def encode_links(groups: Sequence[Sequence[bytes]]) -> Encoded:
    """Groups of two and more paths that are one file; sorted within and by their first path."""
    return _encode(LINKS, groups)


def content_id(entries: Sequence[AnyEntry]) -> bytes:
    """What a folder holds, whatever its times and however it was cut into chunks. Entries sorted by name."""
    contents = _Contents(len(entries))
    contents.add(entries)
    return contents.digest()


def decode_root(object_id: bytes, data: Buffer) -> Root:
    """Raises BadManifest."""
    root = _decode(object_id, ROOT, data, _root_decoder)
    if len(root.tree_id) != ID_LENGTH or len(root.links) not in (0, ID_LENGTH):
        raise BadManifest(object_id, "an id in it is not 32 bytes long")
    return root


def decode_directory(object_id: bytes, data: Buffer) -> Directory:
    """Raises BadManifest, also for a name that could lead out of the folder it stands in."""
    directory = _decode(object_id, DIRECTORY, data, _directory_decoder)
    if any(len(page) != ID_LENGTH for page in directory.pages):
        raise BadManifest(object_id, "an id in it is not 32 bytes long")
    for entry in directory.entries:
        _check(object_id, entry)
    return directory


def decode_links(object_id: bytes, data: Buffer) -> tuple[tuple[bytes, ...], ...]:
    """Raises BadManifest."""
    return _decode(object_id, LINKS, data, _links_decoder)


def pack_entries(entries: Sequence[FileEntry | SymlinkEntry]) -> bytes:
    """Entries for the stat cache; not part of the format."""
    return _encoder.encode(entries)


def unpack_entries(data: bytes) -> list[FileEntry | SymlinkEntry]:
    return _entries_decoder.decode(data)


def pack_chunks(chunks: Iterable[ChunkRef]) -> bytes:
    return b"".join(_CHUNK_REF.pack(*chunk) for chunk in chunks)


def file_chunks(entry: FileEntry) -> Iterator[ChunkRef]:
    """The chunks of a file, in order."""
    if entry.chunks:
        yield from map(ChunkRef._make, _CHUNK_REF.iter_unpack(entry.chunks))
    elif entry.size:
        yield ChunkRef(entry.digest, entry.size)


class _Contents:
    """The content id of a folder, whose `count` entries come piece by piece."""

    def __init__(self, count: int) -> None:
        self._hasher = blake3(CONTENT + _array_header(count))

    def add(self, entries: Iterable[AnyEntry]) -> None:
        rows: list[tuple[bytes, int, int, bytes]] = []
        for entry in entries:
            match entry:
                case FileEntry():
                    rows.append((entry.name, 0, entry.mode, entry.digest))
                case SymlinkEntry():
                    rows.append((entry.name, 1, entry.mode, entry.target))
                case DirectoryEntry():
                    rows.append((entry.name, 2, entry.mode, entry.content_id))
        self._hasher.update(_encoder.encode(rows)[len(_array_header(len(rows))) :])

    def digest(self) -> bytes:
        return self._hasher.digest()


def _array_header(count: int) -> bytes:
    """Of a msgpack array."""
    if count < 16:
        return bytes([0x90 | count])
    return struct.pack(">BH", 0xDC, count) if count < 1 << 16 else struct.pack(">BI", 0xDD, count)


def _encode(kind: bytes, value: object) -> Encoded:
    data = kind + _encoder.encode(value)
    return Encoded(digest(data), data)


def _decode(object_id: bytes, kind: bytes, data: Buffer, decoder: msgspec.msgpack.Decoder[T]) -> T:
    magic = bytes(data[:8])
    if magic != kind:
        same = magic[:7] == kind[:7]
        raise BadManifest(
            object_id, "a newer version of dstack wrote it" if same else f"it begins with {magic!r}, not with {kind!r}"
        )
    try:
        return decoder.decode(memoryview(data)[8:])
    except msgspec.MsgspecError as error:
        raise BadManifest(object_id, f"it is not understood ({error})") from error


def _pages(entries: Iterable[AnyEntry]) -> Iterator[list[AnyEntry]]:
    """Borders depend on the names near them, so that an insertion moves no border but its own. One page at least."""
    page: list[AnyEntry] = []
    chunks = 0
    full = False
    for entry in entries:
        if full:
            yield page
            page, chunks = [], 0
        page.append(entry)
        if isinstance(entry, FileEntry):
            chunks += len(entry.chunks) // _CHUNK_REF.size + len(entry.holes) // 2
        full = zlib.crc32(entry.name) % PAGE_DIVISOR == 0 or len(page) == PAGE_ENTRIES or chunks >= PAGE_CHUNKS
    yield page


def _check(object_id: bytes, entry: AnyEntry) -> None:
    name = entry.name
    if not name or len(name) > 255 or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise BadManifest(object_id, f"{name!r} is no name of a file")
    match entry:
        case FileEntry():
            if len(entry.digest) != ID_LENGTH or len(entry.chunks) % _CHUNK_REF.size or len(entry.holes) % 2:
                raise BadManifest(object_id, f"the entry of {name!r} is malformed")
            if entry.chunks and sum(chunk.length for chunk in file_chunks(entry)) != entry.size:
                raise BadManifest(object_id, f"the chunks of {name!r} do not add up to its size")
            if entry.holes and not _ascending(entry.holes, entry.size):
                raise BadManifest(object_id, f"the holes of {name!r} are malformed")
        case SymlinkEntry():
            if not entry.target or b"\0" in entry.target:
                raise BadManifest(object_id, f"the link {name!r} has no usable target")
        case DirectoryEntry():
            if len(entry.tree_id) != ID_LENGTH or len(entry.content_id) != ID_LENGTH:
                raise BadManifest(object_id, f"the entry of {name!r} is malformed")


def _ascending(holes: tuple[int, ...], size: int) -> bool:
    end = 0
    for offset, length in zip(holes[::2], holes[1::2], strict=True):
        if offset < end or length < 1:
            return False
        end = offset + length
    return end <= size
