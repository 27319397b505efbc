"""What the last save read, so that nothing is read twice. Standard library only: the CLI's hot path.

One record per folder: the names and stat rows of its files in one string, and the directory object they became. An
unchanged folder of 20,000 files is proven unchanged by one comparison of strings. A file that changed within two
seconds before it was read counts as changed the next time: its clock may be too coarse to tell.

File (private to this machine, written by rename, dropped when it is damaged or of another version):
"DSTACKs" 0x01, CRC-32 of the rest (u32), the last root, then the records, each a row of numbers and seven strings.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from dstack.domain import faults
from dstack.snapshots.scanning import (
    Subtree,
    files_signature,
    folders_signature,
    parse_signature,
    select,
    walk,
)

if TYPE_CHECKING:
    from dstack.snapshots.reading import Tail

faults.declare("statcache.flush:before", "statcache.flush:after")

SETTLED: Final = 2_000_000_000
"""Nanoseconds that must lie between a file's last change and its reading."""

_MAGIC: Final = b"DSTACKs\x01"
_CHECKSUM: Final = struct.Struct(">I")
_LAST: Final = struct.Struct(">32s32sQQIqI")
_RECORD: Final = struct.Struct(">qq32s32sQQI7I")
_ID = 32


class SavedSnapshot(NamedTuple):
    """`files` counts everything but folders, `size` their bytes, `stored` the bytes this save added to the store."""

    manifest_id: bytes
    content_id: bytes
    files: int
    size: int
    stored: int
    warnings: tuple[str, ...]


class LastRoot(NamedTuple):
    """The root that the cached folders belong to."""

    manifest_id: bytes
    content_id: bytes
    files: int
    size: int
    mode: int
    mtime: int


class FolderRecord(NamedTuple):
    """One folder as it was saved. Times are nanoseconds UTC."""

    path: bytes
    files_signature: bytes
    folders_signature: bytes
    read_at: int
    """When the save began that read its files last."""
    newest: int
    """The last change of any of its files."""
    subtree: Subtree
    pages: bytes
    """Ids of its pages, 32 bytes each; empty where it has none."""
    entries: bytes
    """Its files and links, as `manifests.pack_entries` made them."""
    assumed: tuple[bytes, ...]
    """Names of files whose older part a live snapshot took as unchanged."""
    warnings: tuple[str, ...]
    scan_warnings: int
    """How many of the warnings came from listing the folder; they stand first."""

    @property
    def own_warnings(self) -> tuple[str, ...]:
        """Those that reading the files gave."""
        return self.warnings[self.scan_warnings :]

    @property
    def settled(self) -> bool:
        return self.newest + SETTLED <= self.read_at

    def object_ids(self) -> Iterable[bytes]:
        """What the store must hold for this record to be of use."""
        yield self.subtree.tree_id
        for at in range(0, len(self.pages), _ID):
            yield self.pages[at : at + _ID]

    def rows(self) -> dict[bytes, bytes]:
        """Name → stat row."""
        return parse_signature(self.files_signature)


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
            data = path.read_bytes()
        except OSError:
            return cache
        if data[:8] == _MAGIC and data[8:12] == _CHECKSUM.pack(zlib.crc32(memoryview(data)[12:])):
            cache._parse(data)
        return cache

    def replace(self, records: dict[bytes, FolderRecord], last: LastRoot, warnings: tuple[str, ...]) -> None:
        """Take what a save found, and write it where this cache has a file. Raises OSError."""
        unchanged = last == self.last and warnings == self.warnings and records == self.records
        self.records, self.last, self.warnings = records, last, warnings
        if self.path is not None and not unchanged:
            self._flush(self.path)

    def _flush(self, path: Path) -> None:
        body = b"".join(self._parts())
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_bytes(_MAGIC + _CHECKSUM.pack(zlib.crc32(body)) + body)
            faults.rename(temporary, path, "statcache.flush")
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def _parts(self) -> Iterable[bytes]:
        if self.last is None:
            return
        warnings = _join_texts(self.warnings)
        yield _LAST.pack(*self.last, len(warnings))
        yield warnings
        for record in self.records.values():
            strings = (
                record.path,
                record.files_signature,
                record.folders_signature,
                record.pages,
                record.entries,
                b"\0".join(record.assumed),
                _join_texts(record.warnings),
            )
            yield _RECORD.pack(record.read_at, record.newest, *record.subtree, record.scan_warnings, *map(len, strings))
            yield from strings

    def _parse(self, data: bytes) -> None:
        *last, length = _LAST.unpack_from(data, 12)
        self.last = LastRoot(*last)
        at = 12 + _LAST.size
        self.warnings = _split_texts(data[at : at + length])
        at += length
        while at < len(data):
            read_at, newest, tree_id, content_id, files, size, scan_warnings, *lengths = _RECORD.unpack_from(data, at)
            at += _RECORD.size
            strings: list[bytes] = []
            for length in lengths:
                strings.append(data[at : at + length])
                at += length
            path, files_row, folders_row, pages, entries, assumed, warnings = strings
            self.records[path] = FolderRecord(
                path,
                files_row,
                folders_row,
                read_at,
                newest,
                Subtree(tree_id, content_id, files, size),
                pages,
                entries,
                tuple(assumed.split(b"\0")) if assumed else (),
                _split_texts(warnings),
                scan_warnings,
            )


def unchanged(root: Path, cache: FileCache, *, paths: Iterable[bytes] | None = None) -> SavedSnapshot | None:
    """The snapshot of the last save with this cache, where nothing changed since; else None, and `save` must look.

    Whether the store still holds it is for the caller to ask. Raises OSError where `root` cannot be opened.
    """
    last = cache.last
    if last is None:
        return None
    for listing in walk(root, None if paths is None else select(paths)):
        record = cache.records.get(listing.path)
        if record is None or not record.settled or record.assumed:
            return None
        if tuple(listing.warnings) != record.warnings[: record.scan_warnings]:
            return None
        if record.files_signature != files_signature(listing.rows):
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
