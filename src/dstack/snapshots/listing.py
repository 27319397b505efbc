"""Walking a stored snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Literal, NamedTuple

from dstack.snapshots.errors import BadManifest, RestoreFailed
from dstack.snapshots.manifests import AnyEntry, DirectoryEntry, FileEntry, Root, SymlinkEntry
from dstack.snapshots.scanning import MAX_DEPTH, Selection, most_folders, select, shown
from dstack.snapshots.store import SnapshotStore

AHEAD: Final = 256
"""Sub-folders whose objects are read at once."""


class Entry(NamedTuple):
    """What stands at a path of a snapshot. Size in bytes (a folder's: all below it), time in nanoseconds UTC or 0."""

    path: bytes
    type: Literal["file", "symlink", "directory"]
    size: int
    mode: int
    mtime: int
    target: bytes = b""
    """Of a symbolic link."""
    digest: bytes = b""
    """BLAKE3 of a file; content id of a folder."""


class Enter(NamedTuple):
    """The walk goes into a folder; None is the root."""

    folder: DirectoryEntry | None


class Leaf(NamedTuple):
    path: bytes
    entry: FileEntry | SymlinkEntry


class Leave(NamedTuple):
    folder: DirectoryEntry | None


Step = Enter | Leaf | Leave


def entries(store: SnapshotStore, manifest_id: bytes, prefix: bytes = b"") -> Iterator[Entry]:
    """Everything in a snapshot, or what stands at and below the path `prefix`; a folder before what is in it.

    Raises RestoreFailed where nothing stands at `prefix`; MissingChunk, CorruptChunk, BadManifest.
    """
    root = store.root(manifest_id)
    prefix = prefix.strip(b"/")
    path: list[bytes] = []
    for step in walk_tree(store, root, [prefix] if prefix else None):
        match step:
            case Leaf(at, FileEntry() as entry):
                yield Entry(at, "file", entry.size, entry.mode, entry.mtime, digest=entry.digest)
            case Leaf(at, SymlinkEntry() as entry):
                yield Entry(at, "symlink", 0, entry.mode, entry.mtime, target=entry.target)
            case Enter(DirectoryEntry() as folder):
                path.append(folder.name)
                at = b"/".join(path)
                if at.startswith(prefix):
                    yield Entry(at, "directory", folder.size, folder.mode, folder.mtime, digest=folder.content_id)
            case Leave(DirectoryEntry()):
                path.pop()
            case _:
                pass


def walk_tree(store: SnapshotStore, root: Root, paths: Iterable[bytes] | None = None) -> Iterator[Step]:
    """Every folder and file below `root`, or of it what is at and below `paths`, in the order of names.

    Raises RestoreFailed for a path that is not there; MissingChunk, CorruptChunk, BadManifest, also where there is more
    than the root says, or more folders than so many files need: folders that stand in each other many times could be a
    small snapshot without an end.
    """
    try:
        selection = None if paths is None else select(paths)
    except ValueError as error:
        raise RestoreFailed(f"not in the snapshot: {error}") from error
    files = size = 0
    yield Enter(None)
    for step in _Walk(store, root.tree_id, root.files + most_folders(root.files)).below(selection):
        if isinstance(step, Leaf):
            files += 1
            size += step.entry.size if isinstance(step.entry, FileEntry) else 0
            if files > root.files or size > root.size:
                raise BadManifest(root.tree_id, "more is below it than its snapshot says")
        yield step
    yield Leave(None)


class _Level:
    """A folder that the walk is in."""

    def __init__(
        self, path: bytes, folder: DirectoryEntry | None, entries: list[AnyEntry], selection: Selection | None
    ):
        self.path = path
        self.folder = folder
        self.selection = selection
        self.folders = [entry for entry in entries if isinstance(entry, DirectoryEntry)]
        self.position = 0
        """How many sub-folders were entered."""
        self.rest = iter(entries)
        self.ahead: dict[bytes, list[AnyEntry]] = {}
        """Entries of the next sub-folders."""


class _Walk:
    def __init__(self, store: SnapshotStore, tree_id: bytes, most: int) -> None:
        self._store = store
        self._tree_id = tree_id
        self._left = most
        """Entries that may still be read."""

    def below(self, selection: Selection | None) -> Iterator[Step]:
        found = self._folders([self._tree_id])[self._tree_id]
        stack = [_Level(b"", None, _chosen(b"", found, selection), selection)]
        while stack:
            level = stack[-1]
            entry = next(level.rest, None)
            if entry is None:
                stack.pop()
                if level.folder is not None:
                    yield Leave(level.folder)
            elif isinstance(entry, DirectoryEntry):
                if len(stack) > MAX_DEPTH:
                    raise BadManifest(entry.tree_id, f"more than {MAX_DEPTH} folders within each other")
                yield Enter(entry)
                stack.append(self._enter(level, entry))
            else:
                yield Leaf(_join(level.path, entry.name), entry)

    def _enter(self, level: _Level, entry: DirectoryEntry) -> _Level:
        if entry.tree_id not in level.ahead:
            batch = level.folders[level.position : level.position + AHEAD]
            level.ahead = self._folders(list({folder.tree_id: None for folder in batch}))
        level.position += 1
        path = _join(level.path, entry.name)
        below = None if level.selection is None else level.selection[entry.name]
        return _Level(path, entry, _chosen(path, level.ahead[entry.tree_id], below), below)

    def _folders(self, tree_ids: list[bytes]) -> dict[bytes, list[AnyEntry]]:
        found = self._store.folders(tree_ids, self._left)
        self._left -= sum(map(len, found.values()))
        return found


def _chosen(path: bytes, found: list[AnyEntry], selection: Selection | None) -> list[AnyEntry]:
    if selection is None:
        return found
    chosen = [entry for entry in found if entry.name in selection]
    names = {entry.name for entry in chosen if selection[entry.name] is None or isinstance(entry, DirectoryEntry)}
    for name in selection:
        if name not in names:
            raise RestoreFailed(f"not in the snapshot: {shown(_join(path, name))}")
    return chosen


def _join(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name
