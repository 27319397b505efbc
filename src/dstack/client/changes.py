"""Which files differ between two sets of artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from dstack.client.saved import choose, files
from dstack.client.sources import plain_path
from dstack.client.types import Artifact, SavedFile
from dstack.snapshots.store import SnapshotStore

Side = tuple[Sequence[Artifact], str | None]
"""Artifacts, and the path in them that is meant; None for everything."""


class Change(TypedDict):
    """`change` is added, removed or changed; the sides are null where nothing stood there."""

    path: str
    change: str
    before: SavedFile | None
    after: SavedFile | None


def changes(store: SnapshotStore, before: Side, after: Side) -> list[Change]:
    """Files and links whose content, kind or permission bits differ, by path; below a path, relative to it.

    Raises ArtifactError where nothing stands at a path; SnapshotError.
    """
    same = _identical(before, after)
    old, new = _files(store, before, same), _files(store, after, same)
    found: list[Change] = []
    for path in sorted(old.keys() | new.keys()):
        left, right = old.get(path), new.get(path)
        if left is None or right is None:
            kind = "added" if left is None else "removed"
        elif _told(left) != _told(right):
            kind = "changed"
        else:
            continue
        found.append({"path": path, "change": kind, "before": left, "after": right})
    return found


def _identical(before: Side, after: Side) -> set[tuple[str, str]]:
    """(path, content id) of whole artifacts that both sides have: their files need not be read."""
    if before[1] is not None or after[1] is not None:
        return set()
    return _contents(before) & _contents(after)


def _contents(side: Side) -> set[tuple[str, str]]:
    found = [(item.get("path", ""), item.get("content_id", "")) for item in side[0]]
    paths = [path for path, _ in found]
    return {(path, content) for path, content in found if paths.count(path) == 1}


def _files(store: SnapshotStore, side: Side, same: set[tuple[str, str]]) -> dict[str, SavedFile]:
    artifacts, path = side
    wanted = [item for item in artifacts if (item.get("path", ""), item.get("content_id", "")) not in same]
    if not wanted and path is None:
        return {}
    jobs = {item.get("job", "") for item in wanted}
    paths = [item.get("path", "") for item in wanted]
    apart = len(jobs) > 1 and len(set(paths)) < len(paths)
    below = plain_path(path) if path is not None else ""
    found: dict[str, SavedFile] = {}
    for item in files(store, choose(store, wanted, [path or ""])):
        if item.get("type") != "directory":
            name = item.get("path", "")
            name = name[len(below) :].lstrip("/") or name if below else name
            found[f"{item.get('job')}/{name}" if apart else name] = item
    return found


def _told(item: SavedFile) -> tuple[object, ...]:
    return item.get("type"), item.get("digest"), item.get("target"), item.get("mode")
