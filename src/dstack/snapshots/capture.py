"""Saving a folder as a snapshot.

    walk (children first) ─▶ files that changed are read ─▶ chunks ─▶ packs
                         └─▶ folders whose files are all read become directory objects ─▶ root

Small files are read where the walk stands, large ones by threads; a folder waits for its large files in a queue while
the walk goes on. Nothing is unbounded: see `PackWriter` and LARGE_AT_ONCE.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from dstack.domain.ports import Clock, SystemClock
from dstack.sdk.blobs import Buffer
from dstack.snapshots.chunking import DEFAULT
from dstack.snapshots.errors import CaptureFailed
from dstack.snapshots.gathering import Folder, Gathering, Large, merged
from dstack.snapshots.manifests import (
    LINK_MODE,
    DirectoryEntry,
    Encoded,
    FileEntry,
    Root,
    SymlinkEntry,
    encode_links,
    encode_root,
    file_chunks,
    write_directory,
)
from dstack.snapshots.reading import FileGone, FileRead, FileReader, FileUnstable
from dstack.snapshots.scanning import (
    ROW_LENGTH,
    Known,
    Listing,
    Selection,
    Stat,
    Subtree,
    folders_signature,
    most_folders,
    parse_rows,
    select,
    shown,
    stat_row,
    unpack_row,
    walk,
)
from dstack.snapshots.statcache import FileCache, FolderRecord, LastRoot, Part, SavedSnapshot
from dstack.snapshots.store import SnapshotStore
from dstack.snapshots.writer import PackWriter

LARGE_AT_ONCE: Final = 64
"""Large files whose reading is asked for and not finished; each holds an open folder."""
READERS: Final = max(2, min(4, os.cpu_count() or 2))

TAILS: Final = 256
"""Grown files whose state is kept in memory from one live snapshot to the next."""

_CLOCK: Final = SystemClock()
_log = logging.getLogger(__name__)
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
        waiting: deque[Folder] = deque()
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

    def _begin(self, listing: Listing) -> Folder:
        for name, device, inode in listing.linked:
            self._links.setdefault((device, inode), []).append(listing.child_path(name))
        record = self._cache.records.get(listing.path)
        if record is not None and not self._known.issuperset(record.object_ids()):
            record = None
        folder = Folder(listing, record, live=self._live)
        for index, part in enumerate(folder.parts):
            if isinstance(part, Gathering):
                for name, row in parse_rows(part.scanned):
                    self._take(folder, part, name, row)
                if not part.large:
                    folder.parts[index] = part.finish(self._started)
        return folder

    def _take(self, folder: Folder, part: Gathering, name: bytes, row: bytes) -> None:
        known = folder.before.entry(name, row, keep_assumed=self._live)
        if known is not None:
            part.entries.append(known)
            part.rows.append((name, row))
            if name in folder.before.assumed:
                part.assumed.append(name)
            return
        found = unpack_row(row)
        if stat.S_ISREG(found.st_mode):
            self._take_file(folder, part, name, found)
        elif stat.S_ISLNK(found.st_mode):
            self._take_link(folder, part, name, found)
        else:
            part.rows.append((name, row))
            kind = _KINDS.get(stat.S_IFMT(found.st_mode), "special file")
            _warn(folder, part, name, f"not saved, it is a {kind}")

    def _take_link(self, folder: Folder, part: Gathering, name: bytes, found: Stat) -> None:
        try:
            target = os.readlink(name, dir_fd=folder.listing.fd)
        except OSError as error:
            if folder.is_chosen or not isinstance(error, FileNotFoundError):
                _warn(folder, part, name, f"not saved, {error.strerror}")
            return
        part.entries.append(SymlinkEntry(name, LINK_MODE, found.st_mtime_ns, target))
        part.rows.append((name, stat_row(found)))

    def _take_file(self, folder: Folder, part: Gathering, name: bytes, found: Stat) -> None:
        old = folder.before.file(name)
        if found.st_size <= self._reader.minimum:
            self._read(folder, part, name, old, lambda: self._reader.read_small(folder.listing.fd, name, found))
            return
        # Only with its folder's record, whose object the store still has: then it has the older chunks, too.
        tail = self._cache.tails.get(folder.listing.child_path(name)) if self._live and old else None
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
        part.large.append(Large(name, self._readers.submit(read), old))

    def _read(
        self, folder: Folder, part: Gathering, name: bytes, old: FileEntry | None, read: Callable[[], FileRead]
    ) -> None:
        """Take up what `read` gives; a file that cannot be had becomes a warning."""
        try:
            result = read()
        except FileGone:
            # Removed since it was listed: as if it had been removed before, unless it was asked for by name.
            if folder.is_chosen:
                _warn(folder, part, name, "not saved, it went away meanwhile")
            return
        except FileUnstable:
            part.rows.append((name, _UNREADABLE_ROW))
            kept = "an older state of it is kept" if old else "not saved"
            _warn(folder, part, name, f"kept changing while it was read, {kept}")
            if old is not None:
                part.entries.append(old)
            return
        except OSError as error:
            part.rows.append((name, _UNREADABLE_ROW))
            _warn(folder, part, name, f"not saved, {error.strerror}")
            return
        found = result.found
        mode = stat.S_IMODE(found.st_mode)
        part.entries.append(FileEntry(name, mode, found.st_mtime_ns, found.st_size, *result.content))
        part.rows.append((name, stat_row(found)))
        if result.assumed:
            part.assumed.append(name)
        if result.tail is not None and result.tail.offset:
            self._tails[folder.listing.child_path(name)] = result.tail

    def _finish(self, folder: Folder) -> None:
        """Make the directory object, all of whose sub-folders are finished."""
        listing, record = folder.listing, folder.record
        parts = tuple(self._finished(folder, part) for part in folder.parts)
        below = folders_signature(listing.saved_folders())
        warnings = tuple(listing.warnings)
        if record is not None and (parts, below) == (record.parts, record.folders_signature):
            record = record._replace(scan_warnings=warnings)
        else:
            subtree, pages = self._store_folder(listing, parts)
            record = FolderRecord(listing.path, parts, below, subtree, pages, warnings)
        self._records[listing.path] = record
        listing.finish(record.subtree)

    def _finished(self, folder: Folder, part: Part | Gathering) -> Part:
        if isinstance(part, Part):
            return part
        for large in part.large:
            self._read(folder, part, large.name, large.old, large.reading.result)
        return part.finish(self._started)

    def _store_folder(self, listing: Listing, parts: Sequence[Part]) -> tuple[Subtree, bytes]:
        folders = [
            DirectoryEntry(name, folder.mode, folder.mtime, *subtree)
            for name, folder, subtree in listing.saved_folders()
        ]
        count = sum(part.files for part in parts)
        written = write_directory(merged(parts, folders), count + len(folders), self._add_object)
        files = count + sum(folder.files for folder in folders)
        size = sum(part.size for part in parts) + sum(folder.size for folder in folders)
        return Subtree(written.tree_id, written.content_id, files, size), written.pages

    def _add_object(self, found: Encoded) -> None:
        if found.id not in self._known:
            self._writer.add_object(*found)

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
            # All is saved; the next save takes longer. That is no warning of the snapshot.
            _log.warning("%s: what was read cannot be noted for the next save, %s", self._cache.path, error.strerror)
        return SavedSnapshot(root.id, subtree.content_id, subtree.files, subtree.size, self._writer.stored, warnings)


def _warn(folder: Folder, part: Gathering, name: bytes, what: str) -> None:
    part.warnings.append(f"{shown(folder.listing.child_path(name))}: {what}")


def _check(root: Path) -> None:
    try:
        found = os.stat(root)
    except FileNotFoundError as error:
        raise CaptureFailed(f"cannot save {root}: there is no such folder") from error
    except OSError as error:
        raise CaptureFailed(f"cannot save {root}: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise CaptureFailed(f"cannot save {root}: it is not a folder")
