"""Small and read-only file systems, mounted for one test."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest


class Disks:
    """Mounts that `close` takes away again; they need root, and without it the test fails with the reason."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            pytest.fail("mounting a small or read-only file system needs root: run this test as root")
        self._mounted: list[Path] = []

    def small(self, folder: Path, megabytes: int) -> Path:
        """A file system of its own with that much room, empty."""
        folder.mkdir(parents=True, exist_ok=True)
        self._mount("-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder))
        self._mounted.append(folder)
        return folder

    def read_only(self, folder: Path) -> Path:
        """What is in `folder`, and no writing to it."""
        folder.mkdir(parents=True, exist_ok=True)
        self._mount("--bind", str(folder), str(folder))
        self._mounted.append(folder)
        self._mount("-o", "remount,bind,ro", str(folder))
        return folder

    def writable(self, folder: Path) -> None:
        """Undo `read_only`."""
        self._mount("-o", "remount,bind,rw", str(folder))

    def unmount(self, folder: Path) -> None:
        """Take a disk away, with all that is on it."""
        self._mounted.remove(folder)
        subprocess.run(["umount", "--lazy", str(folder)], check=True)

    def close(self) -> None:
        for folder in reversed(self._mounted):
            subprocess.run(["umount", "--lazy", str(folder)], check=True)

    def _mount(self, *arguments: str) -> None:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"mount {' '.join(arguments)}: {done.stderr}"


def fill(folder: Path) -> Path:
    """Take all the room there is; removing the file that this returns gives it back."""
    path = folder / "filler"
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass  # full to the last block, which was the aim
        try:
            while True:
                file.write(bytes(1))
        except OSError:
            pass
    return path
