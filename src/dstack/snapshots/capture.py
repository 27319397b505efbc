"""Saving a folder as a snapshot.

    walk (children first) ─▶ files that changed are read ─▶ chunks ─▶ packs
                         └─▶ folders whose files are all read become directory objects ─▶ root

Small files are read where the walk stands, large ones by threads; a folder waits for its large files in a queue while
the walk goes on. Nothing is unbounded: see `PackWriter` and LARGE_AT_ONCE.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from operator import attrgetter
from pathlib import Path
from typing import Final

from dstack.domain.ports import Clock, SystemClock
from dstack.sdk.blobs import Buffer
from dstack.snapshots.chunking import DEFAULT
from dstack.snapshots.errors import CaptureFailed
from dstack.snapshots.manifests import (
    LINK_MODE,
    AnyEntry,
    DirectoryEntry,
    FileEntry,
    Root,
    SymlinkEntry,
    content_id,
    encode_directory,
    encode_links,
    encode_root,
    file_chunks,
    pack_entries,
    unpack_entries,
)
from dstack.snapshots.reading import FileGone, FileRead, FileReader, FileUnstable
from dstack.snapshots.scanning import (
    ROW_LENGTH,
    Known,
    Listing,
    Row,
    Selection,
    Subtree,
    files_signature,
    folders_signature,
    most_folders,
    newest_change,
    select,
    shown,
    stat_row,
    walk,
)
from dstack.snapshots.statcache import SETTLED, FileCache, FolderRecord, LastRoot, SavedSnapshot
from dstack.snapshots.store import SnapshotStore
from dstack.snapshots.writer import PackWriter

LARGE_AT_ONCE: Final = 64
"""Large files whose reading is asked for and not finished; each holds an open folder."""
READERS: Final = max(2, min(4, os.cpu_count() or 2))

TAILS: Final = 256
"""Grown files whose state is kept in memory from one live snapshot to the next."""

_CLOCK: Final = SystemClock()
_KINDS: Final = {
    stat.S_IFIFO: "named pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}
_UNREADABLE_ROW = b"\0" * ROW_LENGTH
"""Equal to no file's: it is read again next time."""


def save(
    root: Path,
    store: SnapshotStore,
    *,
    paths: Iterable[bytes] | None = None,
    known: Known | None = None,
    cache: FileCache | None = None,
    live: bool = False,
    clock: Clock = _CLOCK,
    watch: Callable[[int], None] | None = None,
) -> SavedSnapshot:
    """Save everything below `root`, or exactly `paths` (relative to it), as a snapshot; `known` is `walk`'s.

    On return all of it is stored and recorded in the catalog, and unless `live` it is on the disk; the caller commits
    the reference. With a `cache`, files that did not change since the save that filled it are not read. `live` may
    take a file that grew for one that was appended to; the next save that is not live reads such files again. `watch`
    is told, from any thread, how many bytes of files were read.
    Raises CaptureFailed, StoreRefused, and what the store's catalog raises.
    """
    with PackWriter(store) as writer:
        capture = _Capture(store, writer, cache if cache is not None else FileCache(), clock, watch, live=live)
        try:
            return capture.run(root, None if paths is None else select(paths), known)
        finally:
            capture.close()


def _watched(emit: Callable[[bytes, Buffer], None], watch: Callable[[int], None]) -> Callable[[bytes, Buffer], None]:
    def told(chunk_id: bytes, data: Buffer) -> None:
        emit(chunk_id, data)
        watch(len(data))

    return told


class _Folder:
    """A folder on its way to a directory object."""

    def __init__(self, listing: Listing, record: FolderRecord | None) -> None:
        self.listing = listing
        self.reused = record
        """The record of the last save, if all files are as they were then."""
        self.rows: list[tuple[bytes, bytes]] = []
        """Names and stat rows of what was read, for the next save."""
        self.entries: list[FileEntry | SymlinkEntry] = []
        self.large: list[tuple[Row, Future[FileRead], FileEntry | None]] = []
        self.assumed: list[bytes] = []
        self.warnings: list[str] = []

    def warn(self, name: bytes, what: str) -> None:
        self.warnings.append(f"{shown(self.listing.child_path(name))}: {what}")

    @property
    def is_chosen(self) -> bool:
        """Whether its files were named."""
        return self.listing.selection is not None

    @property
    def ready(self) -> bool:
        return all(future.done() for _, future, _ in self.large)


class _Capture:
    """One save. Lives on one thread, which the readers of large files serve."""

    def __init__(
        self,
        store: SnapshotStore,
        writer: PackWriter,
        cache: FileCache,
        clock: Clock,
        watch: Callable[[int], None] | None,
        *,
        live: bool,
    ) -> None:
        self._store = store
        self._writer = writer
        self._cache = cache
        self._live = live
        emit = writer.add if watch is None else _watched(writer.add, watch)
        self._reader = FileReader(DEFAULT, emit, live=live, clock=clock)
        self._started = clock.now() * 1000
        self._known = self._still_stored()
        self._tails = dict(cache.tails) if live else {}
        self._records: dict[bytes, FolderRecord] = {}
        self._links: dict[tuple[int, int], list[bytes]] = {}
        self._readers: ThreadPoolExecutor | None = None
        self._room = threading.BoundedSemaphore(LARGE_AT_ONCE)

    def run(self, root: Path, selection: Selection | None, known: Known | None) -> SavedSnapshot:
        waiting: deque[_Folder] = deque()
        listing: Listing | None = None
        _check(root)
        for listing in walk(root, selection, known):
            waiting.append(self._begin(listing))
            while waiting and waiting[0].ready:
                self._finish(waiting.popleft())
        for folder in waiting:
            self._finish(folder)
        if listing is None or listing.subtree is None:
            raise AssertionError("a walk ends with its root")
        return self._commit(listing, listing.subtree)

    def close(self) -> None:
        if self._readers is not None:
            self._readers.shutdown(cancel_futures=True)

    def _still_stored(self) -> set[bytes]:
        """Objects of the cached folders that the store has; a folder whose object is gone is read again."""
        objects = {object_id for record in self._cache.records.values() for object_id in record.object_ids()}
        return objects - self._store.missing(objects) if objects else objects

    def _begin(self, listing: Listing) -> _Folder:
        for name, found in listing.rows:
            if found.st_nlink > 1 and stat.S_ISREG(found.st_mode):
                self._links.setdefault((found.st_dev, found.st_ino), []).append(listing.child_path(name))
        record = self._cache.records.get(listing.path)
        if record is not None and not self._known.issuperset(record.object_ids()):
            record = None
        if (
            record is not None
            and record.settled
            and (self._live or not record.assumed)
            and record.files_signature == files_signature(listing.rows)
        ):
            return _Folder(listing, record)
        folder = _Folder(listing, None)
        before = _Before(record)
        for row in listing.rows:
            self._take(folder, row, before)
        return folder

    def _take(self, folder: _Folder, row: Row, before: _Before) -> None:
        name, found = row
        packed = stat_row(found)
        known = before.entry(name, packed, keep_assumed=self._live)
        if known is not None:
            folder.entries.append(known)
            folder.rows.append((name, packed))
            if name in before.assumed:
                folder.assumed.append(name)
        elif stat.S_ISREG(found.st_mode):
            self._take_file(folder, row, before.file(name))
        elif stat.S_ISLNK(found.st_mode):
            self._take_link(folder, row)
        else:
            folder.rows.append((name, packed))
            folder.warn(name, f"not saved, it is a {_KINDS.get(stat.S_IFMT(found.st_mode), 'special file')}")

    def _take_link(self, folder: _Folder, row: Row) -> None:
        name, found = row
        try:
            target = os.readlink(name, dir_fd=folder.listing.fd)
        except OSError as error:
            if folder.is_chosen or not isinstance(error, FileNotFoundError):
                folder.warn(name, f"not saved, {error.strerror}")
            return
        folder.entries.append(SymlinkEntry(name, LINK_MODE, found.st_mtime_ns, target))
        folder.rows.append((name, stat_row(found)))

    def _take_file(self, folder: _Folder, row: Row, old: FileEntry | None) -> None:
        name, found = row
        if found.st_size <= self._reader.minimum:
            self._read(folder, row, old, lambda: self._reader.read_small(folder.listing.fd, row))
            return
        tail = self._cache.tails.get(folder.listing.child_path(name)) if self._live else None
        known = frozenset(chunk.chunk_id for chunk in file_chunks(old)) if old else frozenset[bytes]()
        self._room.acquire()
        fd = os.dup(folder.listing.fd)

        def read() -> FileRead:
            try:
                return self._reader.read_large(fd, name, tail, known)
            finally:
                os.close(fd)
                self._room.release()

        if self._readers is None:
            self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="dstack-read")
        folder.large.append((row, self._readers.submit(read), old))

    def _read(self, folder: _Folder, row: Row, old: FileEntry | None, read: Callable[[], FileRead]) -> None:
        """Take up what `read` gives; a file that cannot be had becomes a warning."""
        name, _ = row
        try:
            result = read()
        except FileGone:
            # Removed since it was listed: as if it had been removed before, unless it was asked for by name.
            if folder.is_chosen:
                folder.warn(name, "not saved, it went away meanwhile")
            return
        except FileUnstable:
            folder.rows.append((name, _UNREADABLE_ROW))
            folder.warn(
                name, "kept changing while it was read, " + ("an older state of it is kept" if old else "not saved")
            )
            if old is not None:
                folder.entries.append(old)
            return
        except OSError as error:
            folder.rows.append((name, _UNREADABLE_ROW))
            folder.warn(name, f"not saved, {error.strerror}")
            return
        found, content = result.found, result.content
        mode = stat.S_IMODE(found.st_mode)
        folder.entries.append(FileEntry(name, mode, found.st_mtime_ns, found.st_size, *content))
        folder.rows.append((name, stat_row(found)))
        if result.assumed:
            folder.assumed.append(name)
        if result.tail is not None and result.tail.offset:
            self._tails[folder.listing.child_path(name)] = result.tail

    def _finish(self, folder: _Folder) -> None:
        """Make the directory object, all of whose sub-folders are finished."""
        listing, reused = folder.listing, folder.reused
        for row, future, old in folder.large:
            self._read(folder, row, old, future.result)
        warnings = (*listing.warnings, *folder.warnings)
        below = folders_signature(listing.saved_folders())
        if reused is not None:
            warnings = (*listing.warnings, *reused.own_warnings)
            if below == reused.folders_signature and warnings == reused.warnings:
                self._records[listing.path] = reused
                listing.finish(reused.subtree)
                return
            folder.entries = unpack_entries(reused.entries)
        folder.rows.sort()
        folder.entries.sort(key=attrgetter("name"))
        subtree, pages = self._store_folder(listing, folder.entries)
        if reused is not None:
            record = reused._replace(
                folders_signature=below,
                subtree=subtree,
                pages=pages,
                warnings=warnings,
                scan_warnings=len(listing.warnings),
            )
        else:
            record = FolderRecord(
                listing.path,
                b"".join([b"%b\0%b" % row for row in folder.rows]),
                below,
                self._started,
                max((newest_change(row) for _, row in folder.rows), default=0),
                subtree,
                pages,
                pack_entries(folder.entries),
                tuple(folder.assumed),
                warnings,
                len(listing.warnings),
            )
        self._records[listing.path] = record
        listing.finish(subtree)

    def _store_folder(self, listing: Listing, entries: list[FileEntry | SymlinkEntry]) -> tuple[Subtree, bytes]:
        folders = [
            DirectoryEntry(name, folder.mode, folder.mtime, *subtree)
            for name, folder, subtree in listing.saved_folders()
        ]
        everything: list[AnyEntry] = [*entries, *folders]
        if folders:
            everything.sort(key=attrgetter("name"))
        objects = encode_directory(everything)
        for found in objects:
            if found.id not in self._known:
                self._writer.add_object(*found)
        files = len(entries) + sum(folder.files for folder in folders)
        size = sum(entry.size for entry in everything if not isinstance(entry, SymlinkEntry))
        subtree = Subtree(objects[-1].id, content_id(everything), files, size)
        return subtree, b"".join(page.id for page in objects[:-1])

    def _commit(self, listing: Listing, subtree: Subtree) -> SavedSnapshot:
        groups = sorted(sorted(paths) for paths in self._links.values() if len(paths) > 1)
        links = b""
        if groups:
            encoded = encode_links(groups)
            self._writer.add_object(*encoded)
            links = encoded.id
        root = encode_root(Root(*subtree[:2], listing.mode, listing.mtime, subtree.files, subtree.size, DEFAULT, links))
        if len(self._records) > most_folders(subtree.files):
            raise CaptureFailed(f"not saved: {len(self._records)} folders for {subtree.files} files are too many")
        self._writer.add_object(*root)
        self._writer.finish()
        if not self._live:
            self._store.sync()
        warnings = tuple(warning for record in self._records.values() for warning in record.warnings)
        last = LastRoot(root.id, subtree.content_id, subtree.files, subtree.size, listing.mode, listing.mtime)
        while len(self._tails) > TAILS:
            del self._tails[next(iter(self._tails))]
        self._cache.tails = self._tails
        try:
            self._cache.replace(self._records, last, warnings)
        except OSError as error:
            warnings += (f"{self._cache.path}: what was read cannot be noted for the next save, {error.strerror}",)
        return SavedSnapshot(root.id, subtree.content_id, subtree.files, subtree.size, self._writer.stored, warnings)


class _Before:
    """What the last save knew of a folder's files."""

    def __init__(self, record: FolderRecord | None) -> None:
        self._read_at = record.read_at if record else 0
        self._rows = record.rows() if record else {}
        self._entries = {entry.name: entry for entry in unpack_entries(record.entries)} if record else {}
        self.assumed = frozenset(record.assumed) if record else frozenset[bytes]()

    def entry(self, name: bytes, row: bytes, *, keep_assumed: bool) -> FileEntry | SymlinkEntry | None:
        """The entry of a file that did not change since it was read."""
        if self._rows.get(name) != row or newest_change(row) + SETTLED > self._read_at:
            return None
        if name in self.assumed and not keep_assumed:
            return None
        return self._entries.get(name)

    def file(self, name: bytes) -> FileEntry | None:
        entry = self._entries.get(name)
        return entry if isinstance(entry, FileEntry) else None


def _check(root: Path) -> None:
    try:
        found = os.stat(root)
    except FileNotFoundError as error:
        raise CaptureFailed(f"cannot save {root}: there is no such folder") from error
    except OSError as error:
        raise CaptureFailed(f"cannot save {root}: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise CaptureFailed(f"cannot save {root}: it is not a folder")
