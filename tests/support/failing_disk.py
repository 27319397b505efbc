"""A disk that does not take everything, as Linux makes it look: pages that could not be written out count as clean from
then on, so the next fsync of the same file succeeds."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest


class Disk:
    """Which files a power cut would leave. `fails` are parts of paths whose next fsync fails, once for each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails: list[str] = []
        self.number = errno.EIO
        self._written: set[int] = set()
        self._clean: set[int] = set()
        """Files that have pages which were never written, and never will be."""
        self._kept: list[int] = []
        """Open, so that no number of a file comes twice."""
        monkeypatch.setattr(os, "fsync", self._fsync)

    def has(self, path: Path) -> bool:
        return os.stat(path).st_ino in self._written - self._clean

    def close(self) -> None:
        for fd in self._kept:
            os.close(fd)

    def _fsync(self, fd: int) -> None:
        path, number = os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd).st_ino
        self._kept.append(os.dup(fd))
        for part in self.fails:
            if path.endswith(part) or (part == "new" and ".tmp-" in path):
                self.fails.remove(part)
                self._clean.add(number)
                raise OSError(self.number, os.strerror(self.number))
        self._written.add(number)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    made = Disk(monkeypatch)
    yield made
    made.close()
