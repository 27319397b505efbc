"""Walking a stored snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from dstack.snapshots.errors import BadManifest, RestoreFailed
from dstack.snapshots.finding import find
from dstack.snapshots.manifests import AnyEntry, Directory, DirectoryEntry, FileEntry, Root, SymlinkEntry
from dstack.snapshots.scanning import MAX_DEPTH, Selection, most_folders, select, shown
from dstack.snapshots.store import SnapshotStore

AHEAD: Final = 256
"""Sub-folders, or pages of them, that are read at once."""
AHEAD_FILES: Final = 20_000
"""Files in them, a single larger folder apart."""
SOUGHT: Final = 4
"""Names that are sought one by one in a folder rather than among all that is in it."""


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


Groups = Iterator[Sequence[AnyEntry]]
"""The entries of a folder, in order, some at a time: a folder may have a million."""


class _Level:
    """A folder that the walk is in."""

    def __init__(self, path: bytes, folder: DirectoryEntry | None, groups: Groups, selection: Selection | None):
        self.path = path
        self.folder = folder
        self.selection = selection
        self.ahead: dict[bytes, Groups] = {}
        """Entries of the next sub-folders."""
        self._groups = groups
        self._group: Iterator[AnyEntry] = iter(())
        self._folders: list[DirectoryEntry] = []
        self._entered = 0

    def next(self) -> AnyEntry | None:
        while (entry := next(self._group, None)) is None:
            group = next(self._groups, None)
            if group is None:
                return None
            self._group = iter(group)
            self._folders = [entry for entry in group if isinstance(entry, DirectoryEntry)]
            self._entered = 0
        if isinstance(entry, DirectoryEntry):
            self._entered += 1
        return entry

    def coming(self) -> list[bytes]:
        """The folder that `next` gave, and some after it: as many as may be in memory."""
        found: dict[bytes, None] = {}
        files = 0
        for folder in self._folders[self._entered - 1 : self._entered - 1 + AHEAD]:
            files += folder.files
            if found and files > AHEAD_FILES:
                break
            found[folder.tree_id] = None
        return list(found)


class _Walk:
    def __init__(self, store: SnapshotStore, tree_id: bytes, most: int) -> None:
        self._store = store
        self._tree_id = tree_id
        self._left = most
        """Entries that may still be read."""

    def below(self, selection: Selection | None) -> Iterator[Step]:
        stack = [_Level(b"", None, self._selected(b"", self._tree_id, selection), selection)]
        while stack:
            level = stack[-1]
            entry = level.next()
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
        path = _join(level.path, entry.name)
        below = None if level.selection is None else level.selection[entry.name]
        if level.selection is not None and len(level.selection) <= SOUGHT:
            return _Level(path, entry, self._selected(path, entry.tree_id, below), below)
        if entry.tree_id not in level.ahead:
            level.ahead = self._folders(level.coming())
        return _Level(path, entry, _chosen(path, level.ahead.pop(entry.tree_id), below), below)

    def _selected(self, path: bytes, tree_id: bytes, selection: Selection | None) -> Groups:
        """What is selected of one folder; where that is a few names, they are sought."""
        if selection is None or len(selection) > SOUGHT:
            return _chosen(path, self._folders([tree_id])[tree_id], selection)
        directory = self._store.directories([tree_id])[tree_id]
        found = [find(self._store, tree_id, directory, name).entry for name in sorted(selection)]
        return _chosen(path, iter([[entry for entry in found if entry is not None]]), selection)

    def _folders(self, tree_ids: list[bytes]) -> dict[bytes, Groups]:
        directories = self._store.directories(tree_ids)
        pages = [page for found in directories.values() for page in found.pages]
        ahead = self._store.directories(pages) if len(pages) <= AHEAD else {}
        return {found: self._counted(found, directories[found], ahead) for found in tree_ids}

    def _counted(self, tree_id: bytes, directory: Directory, ahead: Mapping[bytes, Directory]) -> Groups:
        for group in self._store.entries(tree_id, directory, ahead):
            self._left -= len(group)
            if self._left < 0:
                raise BadManifest(tree_id, "more is in it than its snapshot says")
            yield group


def _chosen(path: bytes, groups: Groups, selection: Selection | None) -> Groups:
    """What is selected of a folder; all of it is looked at before, for a path that is not there."""
    if selection is None:
        return groups
    chosen = [entry for group in groups for entry in group if entry.name in selection]
    names = {entry.name for entry in chosen if selection[entry.name] is None or isinstance(entry, DirectoryEntry)}
    for name in selection:
        if name not in names:
            raise RestoreFailed(f"not in the snapshot: {shown(_join(path, name))}")
    return iter([chosen])


def _join(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name
