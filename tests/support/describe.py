"""Prints what the current folder holds, as JSON: runs in jobs, and beside them to compare. Python's library only."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys


def describe(root: bytes) -> dict[str, list[object]]:
    """Path (hexadecimal) → kind, permissions, bytes. `.git` is left out wherever it stands."""
    found: dict[str, list[object]] = {}
    for parent, folders, names in os.walk(root):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        folders[:] = [name for name in folders if name != b".git" and name not in links]
        for name in names + folders + links:
            path = os.path.join(parent, name)
            if name != b".git":
                found[os.path.relpath(path, root).hex()] = _what(path)
    return found


def _what(path: bytes) -> list[object]:
    status = os.lstat(path)
    mode = status.st_mode
    if stat.S_ISLNK(mode):
        return ["link", 0, os.readlink(path).hex()]
    if not stat.S_ISREG(mode):
        return ["folder" if stat.S_ISDIR(mode) else "special", stat.S_IMODE(mode), ""]
    with open(path, "rb") as file:
        content = hashlib.sha256(file.read()).hexdigest()
    return ["file", stat.S_IMODE(mode), content, status.st_mtime_ns]


if __name__ == "__main__":
    json.dump(describe(os.getcwdb()), sys.stdout)
