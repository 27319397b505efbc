"""Reading files of the code that a run is sent with."""

from __future__ import annotations

import posixpath

from dstack.sdk.requirement_files import LEADS_AWAY, MOST_BYTES, TOO_LARGE, NotText, decode
from dstack.server.services.catalog import store_of
from dstack.server.services.context import Context
from dstack.snapshots.batches import read_whole
from dstack.snapshots.errors import RestoreFailed
from dstack.snapshots.listing import Enter, Leaf, walk_tree
from dstack.snapshots.manifests import FileEntry, Root, SymlinkEntry, file_chunks
from dstack.snapshots.store import SnapshotStore

_MOST_LINKS = 40
"""That are followed on the way to one file, as Linux does."""


def read_text(context: Context, manifest_id: bytes, path: str) -> str | None:
    """A file of the code snapshot, also behind links; None where there is none. Raises NotText."""
    store = store_of(context)
    entry = _follow(store, store.root(manifest_id), path.encode())
    if entry is None:
        return None
    if entry.size > MOST_BYTES:
        raise NotText(*TOO_LARGE)
    chunks = list(file_chunks(entry))
    found = read_whole(store, manifest_id, chunks)
    return decode(b"".join(bytes(found[chunk.chunk_id]) for chunk in chunks))


def _follow(store: SnapshotStore, root: Root, path: bytes) -> FileEntry | None:
    """The file at `path`, and at the end of what is a link there; None where there is neither."""
    followed = False
    for _ in range(_MOST_LINKS):
        found = _first(store, root, path)
        if found is None:
            if followed:
                break
            return None
        at, entry = found
        if isinstance(entry, FileEntry):
            return entry
        followed = True
        rest = path[len(at) + 1 :]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(at), entry.target, rest))
        if path.startswith(b"/") or path.split(b"/", 1)[0] == b"..":
            break
    raise NotText(*LEADS_AWAY)


def _first(store: SnapshotStore, root: Root, path: bytes) -> tuple[bytes, FileEntry | SymlinkEntry] | None:
    """The file at `path`, or the first link on the way there."""
    found = _leaf(store, root, path)
    if found is not None:
        return path, found
    parts = path.split(b"/")
    for count in range(1, len(parts)):
        before = b"/".join(parts[:count])
        if isinstance(found := _leaf(store, root, before), SymlinkEntry):
            return before, found
    return None


def _leaf(store: SnapshotStore, root: Root, path: bytes) -> FileEntry | SymlinkEntry | None:
    """The file or link at `path`; None where a folder or nothing is. What else lies in a folder is not read."""
    depth = path.count(b"/") + 1
    try:
        for step in walk_tree(store, root, [path]):
            if isinstance(step, Leaf):
                return step.entry
            if isinstance(step, Enter) and step.folder is not None:
                depth -= 1
                if depth == 0:
                    break
    except RestoreFailed:
        pass  # there is no such path
    return None
