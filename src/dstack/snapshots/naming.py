"""Files that get their names when they are whole: whoever is killed before leaves what stood there."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

T = TypeVar("T")
_FORM: Final = re.compile(rb"\.dstack-([0-9]+)-[0-9]+\.part")


class Naming:
    """One file at a time: `begin` makes it under a name of its own, `end` gives it its name."""

    def __init__(self) -> None:
        self._count = 0
        self._part: tuple[int, bytes] | None = None
        """The open folder, and the name there."""
        self._looked: tuple[int, int] | None = None

    def begin(self, folder: int, make: Callable[[bytes], T]) -> T:
        self._remove_remains(folder)
        self._count += 1
        self._part = folder, b".dstack-%d-%d.part" % (os.getpid(), self._count)
        return make(self._part[1])

    def is_taken(self, name: bytes) -> bool:
        """Whether something stands at `name`."""
        try:
            os.stat(name, dir_fd=self._begun[0], follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def end(self, name: bytes) -> None:
        """Raises OSError where a folder stands there."""
        folder, part = self._begun
        os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
        self._part = None

    def clear(self) -> None:
        """Remove what was begun and not ended."""
        if self._part is not None:
            with suppress(OSError):  # what made it end so is told
                os.unlink(self._part[1], dir_fd=self._part[0])
            self._part = None

    @property
    def _begun(self) -> tuple[int, bytes]:
        assert self._part is not None
        return self._part

    def _remove_remains(self, folder: int) -> None:
        """Of processes that are gone, when a folder is first written to."""
        at = os.fstat(folder)
        if self._looked == (at.st_dev, at.st_ino):
            return
        self._looked = at.st_dev, at.st_ino
        for name in map(os.fsencode, os.listdir(folder)):
            found = _FORM.fullmatch(name)
            if found is not None and not _is_there(int(found[1])):
                os.unlink(name, dir_fd=folder)


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
