from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dstack.snapshots import reading
from dstack.snapshots.reading import FileReader
from dstack.snapshots.scanning import Stat
from tests.support.snapshots import Meddle
from tests.support.stores import RecordingStore


@pytest.fixture
def store() -> RecordingStore:
    return RecordingStore()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty folder, to be saved."""
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def files_read(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Names of the files that are read, in order of asking."""
    names: list[bytes] = []
    small, large = FileReader.read_small, FileReader.read_large

    def read_small(self: FileReader, folder: int, name: bytes, listed: Stat) -> object:
        names.append(name)
        return small(self, folder, name, listed)

    def read_large(self: FileReader, folder: int, name: bytes, *rest: object) -> object:
        names.append(name)
        return large(self, folder, name, *rest)  # pyright: ignore[reportArgumentType] - handed through

    monkeypatch.setattr(FileReader, "read_small", read_small)
    monkeypatch.setattr(FileReader, "read_large", read_large)
    return names


@pytest.fixture
def offsets(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Offsets at which reading of large files began or went on."""
    offsets: list[int] = []
    real = os.preadv

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        offsets.append(offset)
        return real(fd, buffers, offset)

    monkeypatch.setattr(reading.os, "preadv", preadv)
    return offsets


@pytest.fixture
def meddle(monkeypatch: pytest.MonkeyPatch) -> Meddle:
    """Calls a function with 0, 1, 2, … after each reading of a file and before its second stat; no pause is waited
    for. Gives the pauses that were asked for."""

    def start(change: Callable[[int], None]) -> list[float]:
        calls = iter(range(1000))
        pauses: list[float] = []
        real_read, real_preadv, real_init = os.read, os.preadv, FileReader.__init__

        def read(fd: int, length: int) -> bytes:
            data = real_read(fd, length)
            change(next(calls))
            return data

        def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
            count = real_preadv(fd, buffers, offset)
            if offset == 0:
                change(next(calls))
            return count

        def init(self: FileReader, *args: object, **keywords: object) -> None:
            real_init(self, *args, pause=pauses.append, **keywords)  # pyright: ignore[reportArgumentType]

        monkeypatch.setattr(reading.os, "read", read)
        monkeypatch.setattr(reading.os, "preadv", preadv)
        monkeypatch.setattr(FileReader, "__init__", init)
        return pauses

    return start
