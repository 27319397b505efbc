"""A folder on its way to a directory object: which parts of it are taken over, and what was read of the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from heapq import merge
from itertools import chain
from operator import attrgetter
from typing import NamedTuple

from dstack.snapshots.manifests import (
    AnyEntry,
    DirectoryEntry,
    FileEntry,
    SymlinkEntry,
    pack_entries,
    unpack_entries,
)
from dstack.snapshots.reading import FileRead
from dstack.snapshots.scanning import Listing, join_rows, newest_change, parse_rows
from dstack.snapshots.statcache import SETTLED, FolderRecord, Part


class Large(NamedTuple):
    """A file that a thread reads. `old` is what the last save had of it."""

    name: bytes
    reading: Future[FileRead]
    old: FileEntry | None


class Gathering:
    """A part of a folder that is not as the last save left it."""

    def __init__(self, scanned: bytes) -> None:
        self.scanned = scanned
        """The rows as they were listed."""
        self.rows: list[tuple[bytes, bytes]] = []
        """Names and stat rows as they were read, for the next save."""
        self.entries: list[FileEntry | SymlinkEntry] = []
        self.large: list[Large] = []
        self.assumed: list[bytes] = []
        self.warnings: list[str] = []

    def finish(self, read_at: int) -> Part:
        """Once all of it is read."""
        self.rows.sort()
        self.entries.sort(key=attrgetter("name"))
        rows = join_rows(self.rows)
        return Part(
            self.scanned if rows == self.scanned else rows,  # one string in memory, not two
            pack_entries(self.entries),
            len(self.entries),
            sum(entry.size for entry in self.entries if isinstance(entry, FileEntry)),
            read_at,
            max((newest_change(row) for _, row in self.rows), default=0),
            tuple(self.assumed),
            tuple(self.warnings),
        )


class Folder:
    """`record` is what the last save knew, if that is of use."""

    def __init__(self, listing: Listing, record: FolderRecord | None, *, live: bool) -> None:
        self.listing = listing
        self.record = record
        usable = {part.rows: part for part in record.parts if _is_usable(part, live)} if record else {}
        self.parts: list[Part | Gathering] = []
        for index, rows in enumerate(listing.parts):
            known = usable.get(rows)
            self.parts.append(known or Gathering(rows))
            if known is not None:
                listing.parts[index] = known.rows  # one string in memory, not two
        taken = {part.rows for part in self.parts if isinstance(part, Part)}
        self.before = Before(part for part in (record.parts if record else ()) if part.rows not in taken)

    @property
    def is_chosen(self) -> bool:
        """Whether its files were named."""
        return self.listing.selection is not None

    @property
    def ready(self) -> bool:
        return all(large.reading.done() for part in self.parts if isinstance(part, Gathering) for large in part.large)


class Before:
    """What the last save knew of the files in the parts that changed."""

    def __init__(self, parts: Iterable[Part]) -> None:
        self._rows: dict[bytes, tuple[bytes, int]] = {}
        self._entries: dict[bytes, FileEntry | SymlinkEntry] = {}
        self.assumed: set[bytes] = set()
        for part in parts:
            self._rows.update((name, (row, part.read_at)) for name, row in parse_rows(part.rows))
            self._entries.update((entry.name, entry) for entry in unpack_entries(part.entries))
            self.assumed.update(part.assumed)

    def entry(self, name: bytes, row: bytes, *, keep_assumed: bool) -> FileEntry | SymlinkEntry | None:
        """The entry of a file that did not change since it was read."""
        known, read_at = self._rows.get(name, (None, 0))
        if known != row or newest_change(row) + SETTLED > read_at:
            return None
        if name in self.assumed and not keep_assumed:
            return None
        return self._entries.get(name)

    def file(self, name: bytes) -> FileEntry | None:
        entry = self._entries.get(name)
        return entry if isinstance(entry, FileEntry) else None


def merged(parts: Iterable[Part], folders: Iterable[DirectoryEntry]) -> Iterator[AnyEntry]:
    """The entries of a folder by name, one part in memory at a time."""
    files: Iterator[AnyEntry] = chain.from_iterable(unpack_entries(part.entries) for part in parts)
    return merge(files, folders, key=attrgetter("name"))


def _is_usable(part: Part, live: bool) -> bool:
    return part.settled and (live or not part.assumed)
