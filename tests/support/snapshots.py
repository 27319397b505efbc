"""Folders that are saved, and what their snapshots must have in common with them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from dstack.snapshots.listing import entries
from dstack.snapshots.restore import restore
from dstack.snapshots.statcache import SavedSnapshot
from dstack.snapshots.store import SnapshotStore
from tests.support.trees import described

Meddle = Callable[[Callable[[int], None]], list[float]]
"""Changes files while they are read; gives the pauses that the reader asked for."""


def sample_package(folder: Path) -> Path:
    """Fill `folder` with one of each: a program, a link, an empty folder, an empty file, and one of 9,000,000 bytes."""
    (folder / "pkg" / "empty").mkdir(parents=True)
    (folder / "main.py").write_bytes(b"print()\n")
    (folder / "pkg" / "tool").write_bytes(b"#!/bin/sh\n")
    (folder / "pkg" / "tool").chmod(0o755)
    (folder / "pkg" / "link").symlink_to("../main.py")
    (folder / "pkg" / "big").write_bytes(os.urandom(9_000_000))
    (folder / "a-first").write_bytes(b"")
    return folder


def nested_files(folder: Path, size: int) -> Path:
    """Fill `folder` with a file at each of three depths, the deepest of `size` bytes."""
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "a").write_bytes(b"alpha")
    (folder / "sub" / "b").write_bytes(b"beta")
    (folder / "sub" / "deep" / "big").write_bytes(os.urandom(size))
    return folder


def paths(store: SnapshotStore, saved: SavedSnapshot) -> list[bytes]:
    return [entry.path for entry in entries(store, saved.manifest_id)]


def assert_restores(store: SnapshotStore, saved: SavedSnapshot, root: Path, scratch: Path) -> None:
    """What was saved is what is in `root`; `scratch` is a folder beside it."""
    target = scratch / "restored"
    restore(store, saved.manifest_id, target)
    assert described(target) == described(root)
    shutil.rmtree(target)
