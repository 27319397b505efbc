"""Names that are one on a file system that folds case or Unicode forms, as those of macOS and Windows do."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable

from dstack.snapshots.errors import RestoreFailed
from dstack.snapshots.scanning import shown


def twin_of(name: bytes, written: Iterable[bytes], folder: int) -> bytes | None:
    """Which of the names `written` into the open `folder` is the file that stands at `name` there."""
    wanted = _folded(name)
    at = os.stat(name, dir_fd=folder, follow_symlinks=False)
    for other in written:
        if other != name and _folded(other) == wanted:
            found = os.stat(other, dir_fd=folder, follow_symlinks=False)
            if os.path.samestat(found, at):
                return other
    return None


def refusal(path: str, name: bytes) -> RestoreFailed:
    """`path` cannot be written because `name` stands there: nobody would know which of the two the file is."""
    return RestoreFailed(
        f"cannot write {path} beside {shown(name)}: the file system there takes both names for one; "
        "restore to another file system, or name the paths that are wanted"
    )


def _folded(name: bytes) -> str:
    text = os.fsdecode(name)
    return (
        text.lower() if text.isascii() else unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())
    )
