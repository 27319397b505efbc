"""Inputs that bring different files for one path: no job could say which of them it was given."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from dstack.protocol.messages import InputRef
from dstack.snapshots.listing import Entry, entries
from dstack.snapshots.scanning import shown
from dstack.snapshots.store import SnapshotStore


def clash(store: SnapshotStore, inputs: Sequence[InputRef]) -> str:
    """What is wrong, in words; "" where every path comes from one input, or with the same bytes from each.

    Reads nothing where no two inputs have a path in common. Raises SnapshotError.
    """
    for index, one in enumerate(inputs):
        for other in inputs[:index]:
            if _overlap(one.path, other.path) and one.manifest_id != other.manifest_id:
                path = _first_difference(store, other, one)
                if path is not None:
                    return (
                        f"{_named(other)} and {_named(one)} bring different files for `{shown(path)}`: "
                        "depend on one of them, or let them write to different folders"
                    )
    return ""


def _overlap(one: str, other: str) -> bool:
    one, other = (posixpath.normpath(path) for path in (one, other))
    return one == other or one == "." or other == "." or one.startswith(f"{other}/") or other.startswith(f"{one}/")


def _first_difference(store: SnapshotStore, one: InputRef, other: InputRef) -> bytes | None:
    if one.path == other.path and store.root(one.manifest_id).content_id == store.root(other.manifest_id).content_id:
        return None
    known = {_place(one, entry): _what(entry) for entry in entries(store, one.manifest_id)}
    for entry in entries(store, other.manifest_id):
        place = _place(other, entry)
        if known.get(place, _what(entry)) != _what(entry):
            return place
    return None


def _place(given: InputRef, entry: Entry) -> bytes:
    return posixpath.normpath(given.path.encode("utf-8", "surrogateescape") + b"/" + entry.path)


def _what(entry: Entry) -> tuple[str, bytes]:
    """Folders come together: what is in them counts."""
    return entry.type, b"" if entry.type == "directory" else entry.digest or entry.target


def _named(given: InputRef) -> str:
    return f"`{given.job_name}` of run {given.run_name}"
