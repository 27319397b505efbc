"""What stands at one path of a stored snapshot, reading the folders on the way, of large ones a part, and no more."""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from dstack.snapshots.errors import RestoreFailed
from dstack.snapshots.finding import find
from dstack.snapshots.manifests import AnyEntry, DirectoryEntry, FileEntry, SymlinkEntry
from dstack.snapshots.scanning import shown
from dstack.snapshots.store import SnapshotStore

MOST_LINKS: Final = 40
"""Symbolic links that one path may lead through, as on Linux."""


class Located(NamedTuple):
    """`path` is where links led to; `entry` is None for the snapshot's own folder."""

    path: bytes
    entry: AnyEntry | None


class NotThere(RestoreFailed):
    """Nothing stands at the path; `near` are names in the last folder that was found (of a large one those that come
    before and after in its order), `folder` its path."""

    def __init__(self, path: bytes, why: str, folder: bytes = b"", near: tuple[bytes, ...] = ()) -> None:
        super().__init__(f"{shown(path)}: {why}")
        self.folder = folder
        self.near = near


def locate(store: SnapshotStore, manifest_id: bytes, path: bytes, *, follow: bool = True) -> Located:
    """What stands at `path`; symbolic links on the way are followed within the snapshot, the last one if `follow`.

    Raises NotThere; MissingChunk, CorruptChunk, BadManifest.
    """
    names = deque(path.split(b"/"))
    way: list[tuple[bytes, DirectoryEntry | None, bytes]] = [(b"", None, store.root(manifest_id).tree_id)]
    links = 0
    dangling: tuple[int, str] | None = None
    """Names behind the last link, and what is wrong where a name that stands in its target is not there."""
    while names:
        name = names.popleft()
        if name in (b"", b"."):
            continue
        if name == b"..":
            if len(way) == 1:
                raise NotThere(path, "leads out of what was saved")
            way.pop()
            continue
        tree_id = way[-1][2]
        entry, near = find(store, tree_id, store.directories([tree_id])[tree_id], name)
        here = b"/".join(step[0] for step in way[1:])
        at = here + b"/" + name if here else name
        match entry:
            case None if dangling is not None and len(names) >= dangling[0]:
                raise NotThere(path, dangling[1])
            case None:
                raise NotThere(path, "not there", here, near)
            case DirectoryEntry():
                way.append((name, entry, entry.tree_id))
            case SymlinkEntry() if follow or any(names):
                links += 1
                if links > MOST_LINKS:
                    raise NotThere(path, "symbolic links that lead in a circle")
                if entry.target.startswith(b"/"):
                    raise NotThere(path, f"a symbolic link leads out of what was saved, to {shown(entry.target)}")
                dangling = len(names), f"a symbolic link leads to {shown(entry.target)}, which was not saved"
                names.extendleft(reversed(entry.target.split(b"/")))
            case FileEntry() | SymlinkEntry():
                if any(name not in (b"", b".") for name in names):
                    raise NotThere(path, f"{shown(at)} is no folder")
                return Located(at, entry)
    return Located(b"/".join(step[0] for step in way[1:]), way[-1][1])
