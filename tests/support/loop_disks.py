"""File systems of a kind, each in a sparse file of its own, mounted for a while."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

SIZE = 400 << 20
"""Bytes; mkfs.xfs makes none that is smaller than 300 MiB."""


class NoDisk(Exception):
    """This machine cannot have one; why."""


@contextmanager
def loop_disk(kind: str, folder: Path) -> Generator[Path]:
    """A new file system, `btrfs` or `xfs`. Raises NoDisk."""
    program = f"mkfs.{kind}"
    if os.geteuid() != 0:
        raise NoDisk(f"mounting {kind} needs root")
    if shutil.which(program) is None:
        raise NoDisk(f"{program} is not installed")
    image, mounted = folder / f"{kind}.image", folder / kind
    with open(image, "wb") as file:
        file.truncate(SIZE)
    subprocess.run([program, "-q", str(image)], check=True, capture_output=True)
    mounted.mkdir(exist_ok=True)  # of a try before, where mounting is refused
    done = subprocess.run(
        ["mount", "-o", "loop", str(image), str(mounted)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise NoDisk(f"{kind} cannot be mounted here: {done.stderr.strip()}")
    try:
        yield mounted
    finally:
        subprocess.run(["umount", str(mounted)], check=True)
        image.unlink()


class Disks:
    """One of each kind, mounted when the first test needs it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._mounted: dict[str, Path] = {}
        self._homes = 0

    def home(self, kind: str) -> Path:
        """A new folder on the disk; "": on that of the tests."""
        if kind not in self._mounted:
            self._mounted[kind] = self._stack.enter_context(loop_disk(kind, self._folder)) if kind else self._folder
        self._homes += 1
        return self._mounted[kind] / f"home-{self._homes}"
