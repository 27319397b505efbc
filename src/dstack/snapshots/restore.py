"""Putting a snapshot, or some paths of it, into a folder.

Bytes come ahead of the writing, by a thread, batch by batch. Everything is made relative to the open folder it stands
in, by plain names and never through a link, so nothing is written outside the target whatever a snapshot or another
process pretends. Set-user-id and set-group-id bits are not restored: the file has another owner than when it was saved.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from dstack.snapshots.again import Places, read_again
from dstack.snapshots.batches import (
    AHEAD,
    Bytes,
    Chunks,
    Known,
    Lengths,
    Part,
    Work,
    batches_of,
    read_ahead,
    read_whole,
)
from dstack.snapshots.below import OPEN_FOLDER, open_below, open_writable
from dstack.snapshots.errors import RestoreFailed, RestoreStopped
from dstack.snapshots.listing import Enter, Entry, Leaf, Leave, entries, walk_tree
from dstack.snapshots.manifests import ChunkRef, DirectoryEntry, FileEntry, Root, SymlinkEntry
from dstack.snapshots.naming import Naming, Unnamed, put
from dstack.snapshots.scanning import shown
from dstack.snapshots.sparse import Holes
from dstack.snapshots.store import SnapshotStore
from dstack.snapshots.twins import Written, refusal

__all__ = ["Entry", "Restored", "entries", "restore", "restore_folder"]

KEPT_BITS: Final = 0o1777

_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Restored(NamedTuple):
    """`files` counts everything but folders; `size` their bytes."""

    files: int
    size: int


def restore(
    store: SnapshotStore,
    manifest_id: bytes,
    target: Path,
    *,
    paths: Iterable[bytes] | None = None,
    within: Path | None = None,
    whole: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    watch: Callable[[int], None] = lambda _: None,
) -> Restored:
    """Make `target` hold what the snapshot holds, or those `paths` of it; files in the way are replaced, others stay.

    With `whole`, a name stands for the old file or the new one at any time, also for who is killed meanwhile: for
    folders that are not made for this alone. No link on the way from `within`, where that is given, to `target` may
    lead out of it. `stopped` is asked once per batch, and `watch` told how many bytes each wrote. Raises RestoreFailed
    (RestoreStopped when `stopped` says so); MissingChunk, CorruptChunk, BadManifest; after each, `target` is
    incomplete.
    """
    root = store.root(manifest_id)
    links = {path: group for group, members in enumerate(store.links(root)) for path in members}
    into = _Target(target, within or target, manifest_id, links, Naming() if whole else None)
    return _restore(store, manifest_id, root, links, into, paths, stopped, watch)


def restore_folder(
    store: SnapshotStore,
    manifest_id: bytes,
    path: bytes,
    folder: DirectoryEntry,
    target: Path,
    *,
    watch: Callable[[int], None] = lambda _: None,
) -> Restored:
    """Make `target` hold what the snapshot holds in `folder`, which stands at `path` of it; else as `restore` does,
    `whole`."""
    whole = store.root(manifest_id)
    root = Root(
        folder.tree_id, folder.content_id, folder.mode, folder.mtime, folder.files, folder.size, whole.chunker, b""
    )
    inside = path + b"/"
    links = {
        member[len(inside) :]: group
        for group, members in enumerate(store.links(whole))
        for member in members
        if member.startswith(inside)
    }
    into = _Target(target, target, manifest_id, links, Naming())
    return _restore(store, manifest_id, root, links, into, None, lambda: False, watch)


def _restore(
    store: SnapshotStore,
    manifest_id: bytes,
    root: Root,
    links: dict[bytes, int],
    target: _Target,
    paths: Iterable[bytes] | None,
    stopped: Callable[[], bool],
    watch: Callable[[int], None],
) -> Restored:
    def read(chunks: list[ChunkRef], being_read: Known) -> Chunks:
        return read_whole(store, manifest_id, chunks, lambda lengths: out.known(lengths, being_read(lengths)))

    with (
        target as out,
        ThreadPoolExecutor(AHEAD, thread_name_prefix="dstack-restore") as readers,
    ):
        for batch, chunks in read_ahead(batches_of(walk_tree(store, root, paths), links), read, readers):
            if stopped():
                raise RestoreStopped(f"putting files into {target.path} was stopped")
            for work in batch.work:
                out.do(work, chunks)
            watch(sum(work.end - work.offset for work in batch.work if isinstance(work, Part)))
        return Restored(out.files, out.size)


class _Target:
    """The folder that is written to, and the way down to where the walk is."""

    def __init__(
        self, path: Path, within: Path, manifest_id: bytes, links: dict[bytes, int], naming: Naming | None
    ) -> None:
        self.path = path
        self.files = 0
        self.size = 0
        self._within = within
        self._manifest_id = manifest_id
        self._links = links
        self._naming = naming
        self._made: dict[tuple[int, bytes], bytes] = {}
        """Hard-link group and digest → the first path made of it."""
        self._folders: list[int] = []
        self._path: list[bytes] = []
        self._written: list[Written] = []
        """The names that this restore has made in each of the folders."""
        self._file: int | None = None
        self._unnamed: Unnamed | None = None
        """The same, where files get their names at their end."""
        self._places = Places()

    def __enter__(self) -> _Target:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        for fd in self._folders:
            os.close(fd)

    def known(self, lengths: Lengths, found: Chunks) -> Chunks:
        """Of chunks those that were `found`, and those that this restore has written; for any thread."""
        places = self._places.find(item for item in lengths if item not in found)
        return {**found, **dict(read_again(self._folders[0], places))} if places else found

    def do(self, work: Work, chunks: Chunks) -> None:
        try:
            match work:
                case Part():
                    self._write(work, chunks)
                case Leaf(entry=SymlinkEntry() as entry):
                    self._symlink(entry)
                case Leaf(path, FileEntry() as entry):
                    self._hard_link(path, entry)
                case Leaf():
                    raise AssertionError("a leaf is a file or a link")
                case Enter(folder):
                    self._enter(folder)
                case Leave(folder):
                    self._leave(folder)
        except IsADirectoryError as error:
            told = f"{self._shown(work)} is in the way: the snapshot has a file there; move it away and try again"
            raise RestoreFailed(told) from error
        except OSError as error:
            raise RestoreFailed(f"cannot write {self._shown(work)}: {error.strerror}") from error

    def _write(self, work: Part, chunks: Chunks) -> None:
        entry = work.entry
        if self._file is None:
            self._file = self._create(entry.name)
        for offset, chunk in work.chunks:
            _write_around(self._file, chunks[chunk.chunk_id], offset, work.holes)
            self._places.note(chunk.chunk_id, (work.leaf.path, offset, chunk.length))
        if work.end != entry.size:
            return
        if entry.holes:
            os.ftruncate(self._file, entry.size)
        os.fchmod(self._file, entry.mode & KEPT_BITS)
        os.utime(self._file, ns=(entry.mtime, entry.mtime))
        if self._unnamed is not None:
            self._unnamed.end(entry.name, partial(self._see_twin, entry.name))
        self._close()
        self._written[-1].add(entry.name)
        self._count(entry)
        group = self._links.get(work.leaf.path)
        if group is not None:
            self._made[group, entry.digest] = work.leaf.path

    def _create(self, name: bytes) -> int:
        folder = self._folders[-1]
        if self._naming is not None:
            self._unnamed = self._naming.open(folder)
            return self._unnamed.fd
        try:
            return os.open(name, _NEW_FILE, 0o600, dir_fd=folder)
        except FileExistsError:
            self._make_way(name)
            return os.open(name, _NEW_FILE, 0o600, dir_fd=folder)

    def _close(self) -> None:
        if self._unnamed is not None:
            self._unnamed.close()
        elif self._file is not None:
            os.close(self._file)
        self._file = self._unnamed = None

    def _make_way(self, name: bytes) -> None:
        self._see_twin(name)
        os.unlink(name, dir_fd=self._folders[-1])

    def _see_twin(self, name: bytes) -> None:
        """What stands there is not to be replaced where this restore has just made it under another name."""
        twin = self._written[-1].twin(name, self._folders[-1])
        if twin is not None:
            raise refusal(self._shown_path(name), twin)

    def _put(self, name: bytes, make: Callable[[bytes], None]) -> None:
        """Have `make` make a link at `name`, in place of what stands there."""
        if self._naming is not None:
            put(name, self._folders[-1], make, partial(self._see_twin, name))
        else:
            try:
                make(name)
            except FileExistsError:
                self._make_way(name)
                make(name)
        self._written[-1].add(name)

    def _symlink(self, entry: SymlinkEntry) -> None:
        folder = self._folders[-1]
        self._put(entry.name, lambda name: os.symlink(entry.target, name, dir_fd=folder))
        os.utime(entry.name, ns=(entry.mtime, entry.mtime), dir_fd=folder, follow_symlinks=False)
        self.files += 1

    def _hard_link(self, path: bytes, entry: FileEntry) -> None:
        first = self._made[self._links[path], entry.digest]
        *names, name = first.split(b"/")
        source, folder = os.dup(self._folders[0]), self._folders[-1]
        try:
            for parent in names:
                below = os.open(parent, OPEN_FOLDER, dir_fd=source)
                os.close(source)
                source = below
            link = partial(os.link, name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
            self._put(entry.name, link)
        finally:
            os.close(source)
        self._count(entry)

    def _enter(self, folder: DirectoryEntry | None) -> None:
        if folder is None:
            self._folders.append(open_below(self._within, self.path))
            self._written.append(Written())
            return
        parent = self._folders[-1]
        self._path.append(folder.name)
        try:
            os.mkdir(folder.name, 0o700, dir_fd=parent)
        except FileExistsError:
            found = os.stat(folder.name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode):
                raise RestoreFailed(
                    f"{self._shown(None)} is in the way: the snapshot has a folder there; move it away and try again"
                ) from None
            twin = self._written[-1].twin(folder.name, parent)
            if twin is not None:
                raise refusal(self._shown(None), twin) from None
        self._written[-1].add(folder.name)
        self._written.append(Written())
        self._folders.append(open_writable(folder.name, parent))

    def _leave(self, folder: DirectoryEntry | None) -> None:
        fd = self._folders.pop()
        self._written.pop()
        try:
            if folder is None:
                return
            os.fchmod(fd, folder.mode & KEPT_BITS)
            if folder.mtime:
                os.utime(fd, ns=(folder.mtime, folder.mtime))
            self._path.pop()
        finally:
            os.close(fd)

    def _count(self, entry: FileEntry) -> None:
        self.files += 1
        self.size += entry.size

    def _shown(self, work: Work | None) -> str:
        return self._shown_path(work.entry.name) if isinstance(work, Part | Leaf) else self._shown_path()

    def _shown_path(self, *names: bytes) -> str:
        return str(self.path / shown(b"/".join([*self._path, *names])))


def _write_all(fd: int, data: Bytes, offset: int) -> None:
    done = os.pwrite(fd, data, offset)
    while done < len(data):
        done += os.pwrite(fd, memoryview(data)[done:], offset + done)


def _write_around(fd: int, data: Bytes, offset: int, holes: Holes) -> None:
    """Leave out what a hole covers, if it is zeros as it should be."""
    view = memoryview(data)
    at = offset
    for first, last in holes.within(offset, offset + len(view)):
        if _is_zero(view[first - offset : last - offset]):
            _write_all(fd, view[at - offset : first - offset], at)
            at = last
    _write_all(fd, view[at - offset :], at)


def _is_zero(view: memoryview) -> bool:
    return bytes(view) == bytes(len(view))
