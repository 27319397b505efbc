"""Putting a snapshot, or some paths of it, into a folder.

Bytes come ahead of the writing, by a thread, batch by batch. Everything is made relative to the open folder it stands
in, by plain names and never through a link, so nothing is written outside the target whatever a snapshot or another
process pretends. Set-user-id and set-group-id bits are not restored: the file has another owner than when it was saved.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from dstack.snapshots.below import OPEN_FOLDER, open_below, open_writable
from dstack.snapshots.errors import BadManifest, RestoreFailed, RestoreStopped
from dstack.snapshots.listing import Enter, Entry, Leaf, Leave, Step, entries, walk_tree
from dstack.snapshots.manifests import ChunkRef, DirectoryEntry, FileEntry, Root, SymlinkEntry, file_chunks
from dstack.snapshots.scanning import shown
from dstack.snapshots.sparse import NONE, Holes, zeros_id
from dstack.snapshots.store import SnapshotStore
from dstack.snapshots.twins import Written, refusal

__all__ = ["Entry", "Restored", "entries", "restore", "restore_folder"]

BATCH_BYTES: Final = 16 * 1024 * 1024
BATCH_STEPS: Final = 2048
AHEAD: Final = 2
"""Batches that are read while one is written; 64 MiB in all."""
KEPT_BITS: Final = 0o1777

_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Bytes = bytes | memoryview


class Restored(NamedTuple):
    """`files` counts everything but folders; `size` their bytes."""

    files: int
    size: int


class _Part(NamedTuple):
    """A run of a file, from `offset` to `end`; the last one ends with the file."""

    leaf: Leaf
    entry: FileEntry
    holes: Holes
    offset: int
    end: int
    chunks: list[tuple[int, ChunkRef]]
    """Each with its offset in the file; zeros that lie in a hole are not among them."""


_Work = _Part | Enter | Leaf | Leave


class _Batch(NamedTuple):
    work: list[_Work]
    chunks: list[ChunkRef]


def restore(
    store: SnapshotStore,
    manifest_id: bytes,
    target: Path,
    *,
    paths: Iterable[bytes] | None = None,
    within: Path | None = None,
    stopped: Callable[[], bool] = lambda: False,
    watch: Callable[[int], None] = lambda _: None,
) -> Restored:
    """Make `target` hold what the snapshot holds, or those `paths` of it; files in the way are replaced, others stay.

    No link on the way from `within`, where that is given, to `target` may lead out of it. `stopped` is asked once per
    batch, and `watch` told how many bytes each wrote. Raises RestoreFailed (RestoreStopped when `stopped` says so);
    MissingChunk, CorruptChunk, BadManifest; after each, `target` is incomplete.
    """
    root = store.root(manifest_id)
    links = {path: group for group, members in enumerate(store.links(root)) for path in members}
    into = _Target(target, within or target, manifest_id, links)
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
    """Make `target` hold what the snapshot holds in `folder`, which stands at `path` of it; else as `restore`."""
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
    into = _Target(target, target, manifest_id, links)
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
    batches = _batches(walk_tree(store, root, paths), links)

    def read(chunks: list[ChunkRef]) -> dict[bytes, Bytes]:
        return read_whole(store, manifest_id, chunks)

    with (
        ThreadPoolExecutor(AHEAD, thread_name_prefix="dstack-restore") as readers,
        target as out,
    ):
        for batch, chunks in _ahead(batches, read, readers):
            if stopped():
                raise RestoreStopped(f"putting files into {target.path} was stopped")
            for work in batch.work:
                out.do(work, chunks)
            watch(sum(work.end - work.offset for work in batch.work if isinstance(work, _Part)))
        return Restored(out.files, out.size)


def read_whole(store: SnapshotStore, manifest_id: bytes, chunks: list[ChunkRef]) -> dict[bytes, Bytes]:
    """The bytes of chunks, by id; raises BadManifest where they are not as many as it says, before memory is full."""
    lengths: dict[bytes, int] = {}
    found: dict[bytes, Bytes] = {}
    for chunk_id, length in chunks:
        if lengths.setdefault(chunk_id, length) != length:
            raise BadManifest(manifest_id, f"it gives chunk {chunk_id.hex()} two lengths")
    for chunk_id, data in store.read_chunks(lengths):
        if len(data) != lengths[chunk_id]:
            raise BadManifest(manifest_id, f"chunk {chunk_id.hex()} is not as long as it says")
        found[chunk_id] = data
    return found


def _ahead(
    batches: Iterator[_Batch], read: Callable[[list[ChunkRef]], dict[bytes, Bytes]], readers: ThreadPoolExecutor
) -> Iterator[tuple[_Batch, dict[bytes, Bytes]]]:
    """Each batch with its bytes, while those of the next ones are read."""
    reading: deque[tuple[_Batch, Future[dict[bytes, Bytes]]]] = deque()
    for batch in batches:
        reading.append((batch, readers.submit(read, batch.chunks)))
        if len(reading) > AHEAD:
            done, chunks = reading.popleft()
            yield done, chunks.result()
    for batch, chunks in reading:
        yield batch, chunks.result()


def _batches(steps: Iterator[Step], links: dict[bytes, int]) -> Iterator[_Batch]:
    batch = _Batch([], [])
    held = 0
    for work, size in _work(steps, links):
        if batch.work and (held + size > BATCH_BYTES or len(batch.work) >= BATCH_STEPS):
            yield batch
            batch, held = _Batch([], []), 0
        batch.work.append(work)
        if isinstance(work, _Part):
            batch.chunks.extend([chunk for _, chunk in work.chunks])
        held += size
    yield batch


def _work(steps: Iterator[Step], links: dict[bytes, int]) -> Iterator[tuple[_Work, int]]:
    """The steps with files cut into parts of at most half a batch, each with its size in memory."""
    linked: set[tuple[int, bytes]] = set()
    for step in steps:
        if not isinstance(step, Leaf) or not isinstance(step.entry, FileEntry):
            yield step, 0
            continue
        group = links.get(step.path)
        if group is not None:
            if (group, step.entry.digest) in linked:
                yield step, 0  # becomes a link to one that was made before
                continue
            linked.add((group, step.entry.digest))
        yield from _parts(step, step.entry)


def _parts(leaf: Leaf, entry: FileEntry) -> Iterator[tuple[_Part, int]]:
    holes = Holes(entry.holes) if entry.holes else NONE
    offset = end = size = 0
    chunks: list[tuple[int, ChunkRef]] = []
    for chunk in file_chunks(entry):
        if not (entry.holes and holes.left(end) >= chunk.length and zeros_id(chunk.length) == chunk.chunk_id):
            if chunks and size + chunk.length > BATCH_BYTES // 2:
                yield _Part(leaf, entry, holes, offset, end, chunks), size
                offset, size, chunks = end, 0, []
            chunks.append((end, chunk))
            size += chunk.length
        end += chunk.length
    yield _Part(leaf, entry, holes, offset, entry.size, chunks), size


class _Target:
    """The folder that is written to, and the way down to where the walk is."""

    def __init__(self, path: Path, within: Path, manifest_id: bytes, links: dict[bytes, int]) -> None:
        self.path = path
        self.files = 0
        self.size = 0
        self._within = within
        self._manifest_id = manifest_id
        self._links = links
        self._made: dict[tuple[int, bytes], bytes] = {}
        """Hard-link group and digest → the first path made of it."""
        self._folders: list[int] = []
        self._path: list[bytes] = []
        self._written: list[Written] = []
        """The names that this restore has made in each of the folders."""
        self._file: int | None = None

    def __enter__(self) -> _Target:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in (*self._folders, *([] if self._file is None else [self._file])):
            os.close(fd)

    def do(self, work: _Work, chunks: dict[bytes, Bytes]) -> None:
        try:
            match work:
                case _Part():
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
        except OSError as error:
            raise RestoreFailed(f"cannot write {self._shown(work)}: {error.strerror}") from error

    def _write(self, part: _Part, chunks: dict[bytes, Bytes]) -> None:
        entry = part.entry
        if self._file is None:
            self._file = self._create(entry.name)
        for offset, chunk in part.chunks:
            _write_around(self._file, chunks[chunk.chunk_id], offset, part.holes)
        if part.end != entry.size:
            return
        if entry.holes:
            os.ftruncate(self._file, entry.size)
        os.fchmod(self._file, entry.mode & KEPT_BITS)
        os.utime(self._file, ns=(entry.mtime, entry.mtime))
        os.close(self._file)
        self._file = None
        self._count(entry)
        group = self._links.get(part.leaf.path)
        if group is not None:
            self._made[group, entry.digest] = part.leaf.path

    def _create(self, name: bytes) -> int:
        folder = self._folders[-1]
        try:
            made = os.open(name, _NEW_FILE, 0o600, dir_fd=folder)
        except FileExistsError:
            self._make_way(name)
            made = os.open(name, _NEW_FILE, 0o600, dir_fd=folder)
        self._written[-1].add(name)
        return made

    def _make_way(self, name: bytes) -> None:
        """Remove what stands there, unless this restore has just made it under another name."""
        folder = self._folders[-1]
        twin = self._written[-1].twin(name, folder)
        if twin is not None:
            raise refusal(self._shown_path(name), twin)
        os.unlink(name, dir_fd=folder)

    def _symlink(self, entry: SymlinkEntry) -> None:
        folder = self._folders[-1]
        try:
            os.symlink(entry.target, entry.name, dir_fd=folder)
        except FileExistsError:
            self._make_way(entry.name)
            os.symlink(entry.target, entry.name, dir_fd=folder)
        self._written[-1].add(entry.name)
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
            try:
                os.link(name, entry.name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
            except FileExistsError:
                self._make_way(entry.name)
                os.link(name, entry.name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(source)
        self._written[-1].add(entry.name)
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

    def _shown(self, work: _Work | None) -> str:
        return self._shown_path(work.entry.name) if isinstance(work, _Part | Leaf) else self._shown_path()

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
