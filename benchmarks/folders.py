"""The folders that are saved: random bytes that are the same in every session, and changes to them that are, too."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

MIB = 1 << 20
SETTLED = 2.5
"""Seconds after which a file counts as unchanged: its time may be too coarse to tell sooner."""
PER_FOLDER = 100


@dataclass(frozen=True, slots=True)
class Kind:
    """`count` files of `size` bytes; a change rewrites `changed` files: `piece` bytes inside of each."""

    name: str
    title: str
    count: int
    size: int
    changed: int
    piece: int

    @property
    def total(self) -> int:
        return self.count * self.size


BIG = Kind("a", "2 GiB in 20 files", 20, 2048 * MIB // 20, 1, MIB)
SMALL = Kind("b", "20,000 files of 4 KiB", 20_000, 4096, 10, 4096)


@dataclass(slots=True)
class Folder:
    """One folder of a kind, which several tools may share: what one of them changed is changed for all."""

    path: Path
    kind: Kind
    version: int = field(default=0)

    def make(self) -> None:
        """Write the files, wait until they count as old, and read them once: every tool finds them in memory."""
        for number in range(self.kind.count):
            path = self.file(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                for at in range(0, self.kind.size, MIB):
                    file.write(random_bytes(f"{self.kind.name} {number} {at}", min(MIB, self.kind.size - at)))
        os.sync()
        time.sleep(SETTLED)

    def file(self, number: int) -> Path:
        return self.path / f"part{number // PER_FOLDER:03}" / f"file{number:05}.bin"

    def advance(self, version: int) -> None:
        """Make the changes up to `version`, those that are not made yet; other places each time."""
        while self.version < version:
            self.version += 1
            for turn in range(self.kind.changed):
                self._change(self.version * self.kind.changed + turn)
            time.sleep(0.02)  # past the tick of the clock that files get their times from

    def _change(self, turn: int) -> None:
        """As a program that rewrites a part of its file in place."""
        room = self.kind.size - self.kind.piece
        with self.file(turn * 7919 % self.kind.count).open("r+b") as file:
            file.seek(turn * 15_485_863 % room if room else 0)
            file.write(random_bytes(f"change {self.kind.name} {turn}", self.kind.piece))


def random_bytes(name: str, length: int) -> bytes:
    """Bytes that nothing compresses and that no other name has."""
    return blake3(name.encode()).digest(length=length)


def disk_size(path: Path) -> int:
    """Bytes of all files below `path`."""
    if not path.exists():
        return 0
    total = 0
    for parent, _, names in os.walk(path):
        total += sum(os.lstat(os.path.join(parent, name)).st_size for name in names)
    return total


def discard(path: Path) -> None:
    """Have `path` away without deleting a file: ext4 without a journal looks at every inode that was deleted in the
    last minutes when it makes a new one, which makes whatever comes next ten times slower. The room of large files is
    given back; the rest goes with the folder of the session."""
    if not path.exists():
        return
    away = path.with_name(f"{path.name}.discarded-{time.monotonic_ns()}")
    path.rename(away)
    for parent, _, names in os.walk(away):
        for name in names:
            file = Path(parent, name)
            if not file.is_symlink() and file.is_file() and file.stat().st_size >= MIB:
                file.chmod(0o600)
                os.truncate(file, 0)


def touch_memory() -> None:
    """Have the machine give all the memory that files will be kept in: the first use of a page costs a virtual machine
    many times what the second does, and would be charged to whichever tool comes first."""
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    length = int(facts["MemAvailable"].split()[0]) * 1024 * 6 // 10
    # In a program of its own: what a program held at most is counted for those that it starts later, too.
    code = "import mmap; m = mmap.mmap(-1, {0})\nfor at in range(0, {0}, mmap.PAGESIZE): m[at] = 1"
    subprocess.run([sys.executable, "-c", code.format(length)], check=True)
