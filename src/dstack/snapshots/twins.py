"""Names that are one on a file system that folds case or Unicode forms, as those of macOS and Windows do."""

from __future__ import annotations

import os
import unicodedata

from dstack.snapshots.errors import RestoreFailed
from dstack.snapshots.scanning import shown


class Written:
    """The names that were written into one folder, of which the next may be one of them in another spelling."""

    def __init__(self) -> None:
        self._names: list[bytes] = []
        self._folded: dict[str, list[bytes]] = {}
        """The first `_known` of them by their folded form; made when something stood in the way."""
        self._known = 0

    def add(self, name: bytes) -> None:
        self._names.append(name)

    def twin(self, name: bytes, folder: int) -> bytes | None:
        """Which of them is the file that stands at `name` in the open `folder`."""
        for other in self._names[self._known :]:
            self._folded.setdefault(_folded(other), []).append(other)
        self._known = len(self._names)
        alike = [other for other in self._folded.get(_folded(name), ()) if other != name]
        if not alike:
            return None
        at = os.stat(name, dir_fd=folder, follow_symlinks=False)
        found = ((other, os.stat(other, dir_fd=folder, follow_symlinks=False)) for other in alike)
        return next((other for other, status in found if os.path.samestat(status, at)), None)


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
