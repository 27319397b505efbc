"""What the last save read, so that nothing is read twice. Standard library only: the CLI's hot path.

One record per folder, in parts of some hundred files: their names and stat rows in one string, and the entries they
became. An unchanged folder of 20,000 files is proven unchanged by comparing some strings, and of a folder of a million
one part is read again where one file changed. A file that changed within two seconds before it was read counts as
changed the next time: its clock may be too coarse to tell.

File (private to this machine, written by rename, dropped when it is damaged or of another version):
"DSTACKs" 0x02, CRC-32 of the rest (u32), the last root, then the records: a row of numbers, strings, and the parts,
each a row of numbers and strings. It is written and read piece by piece.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

from dstack.domain import faults
from dstack.snapshots.scanning import Subtree, folders_signature, select, walk

if TYPE_CHECKING:
    from dstack.snapshots.reading import Tail

faults.declare("statcache.flush:before", "statcache.flush:after")

SETTLED: Final = 2_000_000_000
"""Nanoseconds that must lie between a file's last change and its reading."""

_MAGIC: Final = b"DSTACKs\x02"
_CHECKSUM: Final = struct.Struct(">I")
_LAST: Final = struct.Struct(">32s32sQQIqI")
_RECORD: Final = struct.Struct(">32s32sQQ5I")
_PART: Final = struct.Struct(">qqIQ4I")
_ID = 32
_BLOCK: Final = 1024 * 1024


class SavedSnapshot(NamedTuple):
    """`files` counts everything but folders, `size` their bytes, `stored` the bytes this save added to the store."""

    manifest_id: bytes
    content_id: bytes
    files: int
    size: int
    stored: int
    warnings: tuple[str, ...]

    def warnings_below(self, path: str) -> tuple[str, ...]:
        """The warnings, with the names of files as they are where this is the folder `path`."""
        return self.warnings if path == "." else tuple(f"{path}/{warning}" for warning in self.warnings)


class LastRoot(NamedTuple):
    """The root that the cached folders belong to."""

    manifest_id: bytes
    content_id: bytes
    files: int
    size: int
    mode: int
    mtime: int


class Part(NamedTuple):
    """A run of a folder's files, in the order of names, as they were saved. Times are nanoseconds UTC."""

    rows: bytes
    """Names and stat rows, as `scanning.join_rows` made them."""
    entries: bytes
    """Its files and links, as `manifests.pack_entries` made them."""
    files: int
    """And links: how many entries."""
    size: int
    """Bytes of its files."""
    read_at: int
    """When the save began that read its files last."""
    newest: int
    """The last change of any of its files."""
    assumed: tuple[bytes, ...]
    """Names of files whose older part a live snapshot took as unchanged."""
    warnings: tuple[str, ...]

    @property
    def settled(self) -> bool:
        return self.newest + SETTLED <= self.read_at


class FolderRecord(NamedTuple):
    """One folder as it was saved."""

    path: bytes
    parts: tuple[Part, ...]
    folders_signature: bytes
    subtree: Subtree
    pages: bytes
    """Ids of its pages, 32 bytes each; empty where it has none."""
    scan_warnings: tuple[str, ...]
    """Those that came from listing the folder."""

    @property
    def warnings(self) -> tuple[str, ...]:
        return (*self.scan_warnings, *(warning for part in self.parts for warning in part.warnings))

    def object_ids(self) -> Iterable[bytes]:
        """What the store must hold for this record to be of use."""
        yield self.subtree.tree_id
        for at in range(0, len(self.pages), _ID):
            yield self.pages[at : at + _ID]


class FileCache:
    """The records of one folder that is saved again and again into one store; a file if `path` is given."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.last: LastRoot | None = None
        self.warnings: tuple[str, ...] = ()
        self.records: dict[bytes, FolderRecord] = {}
        self.tails: dict[bytes, Tail] = {}
        """Where to go on reading grown files; held in memory only."""

    @classmethod
    def load(cls, path: Path) -> FileCache:
        """What is at `path`; empty where nothing usable is: a lost cache costs one reading of the files."""
        cache = cls(path)
        try:
            with open(path, "rb") as file:
                cache._read(file)
        except (OSError, ValueError, struct.error):
            return cls(path)
        return cache

    def replace(self, records: dict[bytes, FolderRecord], last: LastRoot, warnings: tuple[str, ...]) -> None:
        """Take what a save found, and write it where this cache has a file. Raises OSError."""
        unchanged = last == self.last and warnings == self.warnings and records == self.records
        self.records, self.last, self.warnings = records, last, warnings
        if self.path is not None and not unchanged:
            self._flush(self.path)

    def _flush(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            with open(temporary, "wb") as file:
                checksum = 0
                file.write(_MAGIC + _CHECKSUM.pack(0))
                for piece in self._pieces():
                    checksum = zlib.crc32(piece, checksum)
                    file.write(piece)
                file.seek(len(_MAGIC))
                file.write(_CHECKSUM.pack(checksum))
            faults.rename(temporary, path, "statcache.flush")
        except OSError:
            with suppress(OSError):  # the first error is the one to tell
                temporary.unlink(missing_ok=True)
            raise

    def _pieces(self) -> Iterator[bytes]:
        if self.last is None:
            return
        warnings = _join_texts(self.warnings)
        yield _LAST.pack(*self.last, len(warnings))
        yield warnings
        for record in self.records.values():
            strings = (record.path, record.folders_signature, record.pages, _join_texts(record.scan_warnings))
            yield _RECORD.pack(*record.subtree, *map(len, strings), len(record.parts))
            yield from strings
            for part in record.parts:
                strings = (part.rows, part.entries, b"\0".join(part.assumed), _join_texts(part.warnings))
                yield _PART.pack(part.read_at, part.newest, part.files, part.size, *map(len, strings))
                yield from strings

    def _read(self, file: BinaryIO) -> None:
        """Fill this cache. Raises ValueError and struct.error for what is no cache, or a damaged one."""
        head = file.read(len(_MAGIC) + _CHECKSUM.size)
        if head[: len(_MAGIC)] != _MAGIC:
            raise ValueError("not a cache of this version")
        checksum, at = 0, file.tell()
        for piece in iter(partial(file.read, _BLOCK), b""):
            checksum = zlib.crc32(piece, checksum)
        if head[len(_MAGIC) :] != _CHECKSUM.pack(checksum):
            raise ValueError("damaged")
        end = file.tell()
        file.seek(at)
        *last, length = _LAST.unpack(file.read(_LAST.size))
        self.last = LastRoot(*last)
        self.warnings = _split_texts(file.read(length))
        while file.tell() < end:
            record = _read_record(file.read)
            self.records[record.path] = record


def _read_record(read: Callable[[int], bytes]) -> FolderRecord:
    *subtree, a, b, c, d, parts = _RECORD.unpack(read(_RECORD.size))
    path, folders, pages, warnings = read(a), read(b), read(c), read(d)
    found = tuple(_read_part(read) for _ in range(parts))
    return FolderRecord(path, found, folders, Subtree(*subtree), pages, _split_texts(warnings))


def _read_part(read: Callable[[int], bytes]) -> Part:
    read_at, newest, files, size, a, b, c, d = _PART.unpack(read(_PART.size))
    rows, entries, assumed, warnings = read(a), read(b), read(c), read(d)
    names = tuple(assumed.split(b"\0")) if assumed else ()
    return Part(rows, entries, files, size, read_at, newest, names, _split_texts(warnings))


def unchanged(root: Path, cache: FileCache, *, paths: Iterable[bytes] | None = None) -> SavedSnapshot | None:
    """The snapshot of the last save with this cache, where nothing changed since; else None, and `save` must look.

    Whether the store still holds it is for the caller to ask. Raises OSError where `root` cannot be opened.
    """
    last = cache.last
    if last is None:
        return None
    for listing in walk(root, None if paths is None else select(paths)):
        record = cache.records.get(listing.path)
        if record is None or tuple(listing.warnings) != record.scan_warnings:
            return None
        if listing.parts != [part.rows for part in record.parts if part.settled and not part.assumed]:
            return None
        if record.folders_signature != folders_signature(listing.saved_folders()):
            return None
        listing.finish(record.subtree)
        if listing.parent is None and (listing.mode, listing.mtime) != (last.mode, last.mtime):
            return None
    return SavedSnapshot(last.manifest_id, last.content_id, last.files, last.size, 0, cache.warnings)


def _join_texts(texts: Iterable[str]) -> bytes:
    return "\0".join(texts).encode()


def _split_texts(data: bytes) -> tuple[str, ...]:
    return tuple(data.decode().split("\0")) if data else ()
