"""Inputs that bring different files for one path: no job could say which of them it was given."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Sequence

from dstack.protocol.messages import InputRef
from dstack.snapshots.listing import Entry, entries
from dstack.snapshots.scanning import shown
from dstack.snapshots.store import SnapshotStore


def clash(store: SnapshotStore, inputs: Sequence[InputRef]) -> str:
    """What is wrong, in words; "" where every path comes from one input, or with the same bytes from each.

    Reads nothing of an input that has no path in common with another. Raises SnapshotError.
    """
    brought: dict[bytes, tuple[tuple[str, bytes], InputRef]] = {}
    seen: set[tuple[str, bytes]] = set()
    for given in _overlapping(inputs):
        content = _normal(given), store.root(given.manifest_id).content_id
        if content in seen:
            continue
        seen.add(content)
        for entry in entries(store, given.manifest_id):
            place, what = _place(given, entry), _what(entry)
            known, other = brought.setdefault(place, (what, given))
            if known != what:
                return (
                    f"{_named(other)} and {_named(given)} bring different files for `{shown(place)}`: "
                    "depend on one of them, or let them write to different folders"
                )
    return ""


def _overlapping(inputs: Sequence[InputRef]) -> list[InputRef]:
    """Those whose folder is that of another, lies in it or around it."""
    many = Counter(map(_normal, inputs))
    around = {above for path in many for above in _above(path) if above in many}
    return [
        given
        for given in inputs
        if many[path := _normal(given)] > 1 or path in around or any(above in many for above in _above(path))
    ]


def _above(path: str) -> list[str]:
    """The folders that a normal path lies in."""
    parts = path.split("/")
    return [] if path == "." else [".", *("/".join(parts[:count]) for count in range(1, len(parts)))]


def _normal(given: InputRef) -> str:
    return posixpath.normpath(given.path)


def _place(given: InputRef, entry: Entry) -> bytes:
    return posixpath.normpath(given.path.encode("utf-8", "surrogateescape") + b"/" + entry.path)


def _what(entry: Entry) -> tuple[str, bytes]:
    """Folders come together: what is in them counts."""
    return entry.type, b"" if entry.type == "directory" else entry.digest or entry.target


def _named(given: InputRef) -> str:
    return f"`{given.job_name}` of run {given.run_name}"
