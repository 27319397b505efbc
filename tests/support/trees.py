"""Folders as values: what two of them must have in common to count as the same."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple


class Described(NamedTuple):
    """One path. `what` is a file's bytes or a link's target; `links` tells hard links within the folder apart."""

    kind: int
    mode: int
    mtime: int
    what: bytes
    links: tuple[bytes, ...]


def described(root: Path) -> dict[bytes, Described]:
    """Everything below `root` by relative path: types, modes, times to the nanosecond, bytes, hard links."""
    found: dict[bytes, os.stat_result] = {}
    for parent, folders, names in os.walk(bytes(root)):
        for name in folders + names:
            path = os.path.join(parent, name)
            found[os.path.relpath(path, bytes(root))] = os.lstat(path)
    inodes: dict[int, list[bytes]] = {}
    for path, status in sorted(found.items()):
        if stat.S_ISREG(status.st_mode):
            inodes.setdefault(status.st_ino, []).append(path)
    return {
        path: Described(
            stat.S_IFMT(status.st_mode),
            stat.S_IMODE(status.st_mode),
            status.st_mtime_ns,
            _what(os.path.join(bytes(root), path), status),
            tuple(inodes.get(status.st_ino, ())) if stat.S_ISREG(status.st_mode) else (),
        )
        for path, status in found.items()
    }


def _what(path: bytes, status: os.stat_result) -> bytes:
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(path)
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            return file.read()
    return b""
