"""Unpacking the same small snapshot again and again: the code of a run's jobs, and their inputs.

The first time its files are kept in memory; after that an unpack is the writing of the files and nothing else.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from dstack.snapshots.batches import read_whole
from dstack.snapshots.errors import BadManifest
from dstack.snapshots.listing import Enter, Leaf, Leave, walk_tree
from dstack.snapshots.manifests import DirectoryEntry, FileEntry, Root, SymlinkEntry, file_chunks
from dstack.snapshots.restore import KEPT_BITS, Restored, restore
from dstack.snapshots.store import SnapshotStore

SMALL_BYTES: Final = 8 * 1024 * 1024
SMALL_FILES: Final = 2000
KEPT_BYTES: Final = 24 * 1024 * 1024
KEPT_ENTRY: Final = 1024
"""What a file costs beside its bytes."""

_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class _File(NamedTuple):
    path: bytes
    mode: int
    mtime: int
    data: bytes


class _Folder(NamedTuple):
    path: bytes
    mode: int
    mtime: int


class _Plan(NamedTuple):
    """What to make, in order. Paths are of checked names, relative to the target."""

    folders: list[_Folder]
    files: list[_File]
    symlinks: list[tuple[bytes, SymlinkEntry]]
    result: Restored

    @property
    def cost(self) -> int:
        return self.result.size + KEPT_ENTRY * (self.result.files + len(self.folders))


class Materialiser:
    """Unpacks snapshots of `store` into folders. Safe for threads."""

    def __init__(self, store: SnapshotStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._plans: OrderedDict[bytes, _Plan | Restored] = OrderedDict()
        """Of a snapshot that is too large to keep, how large it is."""
        self._kept = 0

    def unpack(self, manifest_id: bytes, target: Path, stopped: Callable[[], bool] = lambda: False) -> Restored:
        """As `restore`, faster the second time. A `target` that exists and is not empty is restored into."""
        with self._lock:
            plan = self._plan(manifest_id)
        if isinstance(plan, Restored) or not _fresh(target):
            return restore(self._store, manifest_id, target, stopped=stopped)
        try:
            _make(plan, target)
        except FileExistsError:  # two names are one on this file system: `restore` tells which
            return restore(self._store, manifest_id, target, stopped=stopped)
        return plan.result

    def is_quick(self, manifest_id: bytes) -> bool:
        """Whether `unpack` would read nothing from the store."""
        return isinstance(self._plans.get(manifest_id), _Plan)

    def measure(self, manifest_id: bytes) -> Restored:
        """How many files and bytes it has; of a small one all is read that `unpack` needs."""
        with self._lock:
            found = self._plan(manifest_id)
        return found.result if isinstance(found, _Plan) else found

    def _plan(self, manifest_id: bytes) -> _Plan | Restored:
        if manifest_id in self._plans:
            self._plans.move_to_end(manifest_id)
            return self._plans[manifest_id]
        root = self._store.root(manifest_id)
        # Hard links are rare in code and `restore` knows them.
        small = root.size <= SMALL_BYTES and root.files <= SMALL_FILES and not root.links
        plan = _load(self._store, manifest_id, root) if small else Restored(root.files, root.size)
        self._plans[manifest_id] = plan
        self._kept += _cost(plan)
        while self._kept > KEPT_BYTES:
            _, old = self._plans.popitem(last=False)
            self._kept -= _cost(old)
        return plan


def _cost(plan: _Plan | Restored) -> int:
    return plan.cost if isinstance(plan, _Plan) else KEPT_ENTRY


def _load(store: SnapshotStore, manifest_id: bytes, root: Root) -> _Plan:
    folders: list[_Folder] = []
    entries: list[tuple[bytes, FileEntry]] = []
    symlinks: list[tuple[bytes, SymlinkEntry]] = []
    path: list[bytes] = []
    for step in walk_tree(store, root):
        match step:
            case Enter(DirectoryEntry() as folder):
                path.append(folder.name)
                folders.append(_Folder(b"/".join(path), folder.mode & KEPT_BITS, folder.mtime))
            case Leave(DirectoryEntry()):
                path.pop()
            case Leaf(at, FileEntry() as entry):
                entries.append((at, entry))
            case Leaf(at, SymlinkEntry() as entry):
                symlinks.append((at, entry))
            case _:
                pass
    chunks = read_whole(store, manifest_id, [chunk for _, entry in entries for chunk in file_chunks(entry)])
    files = [
        _File(at, entry.mode & KEPT_BITS, entry.mtime, b"".join(chunks[chunk.chunk_id] for chunk in file_chunks(entry)))
        for at, entry in entries
    ]
    size = sum(len(file.data) for file in files)
    if size != sum(entry.size for _, entry in entries):
        raise BadManifest(manifest_id, "the chunks of its files are not as long as it says")
    return _Plan(folders, files, symlinks, Restored(len(files) + len(symlinks), size))


def _fresh(target: Path) -> bool:
    """Make `target`, or see that it is empty."""
    try:
        os.mkdir(target)
    except FileNotFoundError:
        target.mkdir(parents=True)
    except FileExistsError:
        with os.scandir(target) as found:
            return next(found, None) is None
    return True


def _make(plan: _Plan, target: Path) -> None:
    """Into an empty folder of our own: no path of the plan can lead through a link, for links are made last."""
    folder = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path, _, _ in plan.folders:
            os.mkdir(path, 0o700, dir_fd=folder)
        for path, mode, mtime, data in plan.files:
            fd = os.open(path, _NEW_FILE, 0o600, dir_fd=folder)
            try:
                done = os.write(fd, data)
                while done < len(data):
                    done += os.write(fd, memoryview(data)[done:])
                os.fchmod(fd, mode)
                os.utime(fd, ns=(mtime, mtime))
            finally:
                os.close(fd)
        for path, entry in plan.symlinks:
            os.symlink(entry.target, path, dir_fd=folder)
            os.utime(path, ns=(entry.mtime, entry.mtime), dir_fd=folder, follow_symlinks=False)
        for path, mode, mtime in reversed(plan.folders):
            os.chmod(path, mode, dir_fd=folder)
            if mtime:
                os.utime(path, ns=(mtime, mtime), dir_fd=folder)
    finally:
        os.close(folder)
