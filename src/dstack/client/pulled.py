"""What `dstack run --pull` has put into a repository's folder: it may be replaced until somebody changes it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

_Mark = list[int]


class Pulled:
    """The files pulled into the folder `root`, remembered below `home` by their size and times."""

    def __init__(self, home: str, root: str) -> None:
        name = hashlib.sha256(os.fsencode(root)).hexdigest()[:24]
        self._path = Path(home, "cli", "pulled", f"{name}.json")
        self._root = root
        self._marks = self._read()

    def is_ours(self, path: Path) -> bool:
        """Whether `path` is as it was pulled."""
        return self._marks.get(self._name(path)) == _mark(path)

    def remember(self, paths: Iterable[Path]) -> None:
        """Add what was just pulled. Raises OSError."""
        for path in paths:
            mark = _mark(path)
            if mark is not None:
                self._marks[self._name(path)] = mark
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        own = self._path.with_suffix(f".{os.getpid()}")
        own.write_text(json.dumps(self._marks), encoding="utf-8")
        own.replace(self._path)

    def _name(self, path: Path) -> str:
        return os.path.relpath(path, self._root)

    def _read(self) -> dict[str, _Mark]:
        try:
            return json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}  # never pulled, or not readable: then nothing is ours, and nothing is overwritten


def _mark(path: Path) -> _Mark | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return [found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
