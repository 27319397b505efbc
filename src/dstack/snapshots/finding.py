"""Finding one name in a folder: of one in many pages few are read, for names and pages are in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Final, NamedTuple

from dstack.snapshots.interfaces import ChunkLocation
from dstack.snapshots.manifests import AnyEntry, Directory
from dstack.snapshots.store import SnapshotStore

FEW: Final = 16
"""Pages that are read at once rather than asked for one by one: some 300 KB, in one read where they lie together."""


class Found(NamedTuple):
    """`entry` is None where there is no such name; `near` are the names that were read, in order."""

    entry: AnyEntry | None
    near: tuple[bytes, ...]


def find(store: SnapshotStore, tree_id: bytes, directory: Directory, name: bytes) -> Found:
    """What is called `name` in the folder `tree_id`, whose object is `directory`.

    Raises MissingChunk, CorruptChunk, BadManifest.
    """
    pages = directory.pages
    places = store.locate(pages) if len(pages) > FEW else None
    while len(pages) > FEW:
        middle = len(pages) // 2
        entries = _read(store, tree_id, Directory(pages[middle : middle + 1], ()), places)
        if not entries:
            break  # a page without a name says nothing about where to go on: all are read
        if name < entries[0].name:
            pages = pages[:middle]
        elif name > entries[-1].name:
            pages = pages[middle + 1 :]
        else:
            return _among(entries, name)
    return _among(_read(store, tree_id, Directory(pages, directory.entries), places), name)


def _read(
    store: SnapshotStore, tree_id: bytes, directory: Directory, places: Mapping[bytes, ChunkLocation] | None
) -> list[AnyEntry]:
    pages = store.directories(directory.pages, places)
    return list(chain.from_iterable(store.entries(tree_id, directory, pages)))


def _among(entries: Sequence[AnyEntry], name: bytes) -> Found:
    entry = next((entry for entry in entries if entry.name == name), None)
    return Found(entry, tuple(entry.name for entry in entries))
