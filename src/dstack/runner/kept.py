"""The Python environments that are kept on this machine: who works in which, and which go when there are too many.

`root/<key>` is one, `root/<key>.lock` its lock. Its marker file, the last thing that is written into it, says that it
is whole, how large it is, and by its time when it was last used. What nobody uses goes, the longest unused first, as
soon as there are more environments or bytes than the limits allow; one that an attempt works in never does.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import re
import shutil
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from dstack.domain import faults
from dstack.runner.threads import whole

faults.declare("environment-complete:before", "environment-complete:after")

_log = logging.getLogger(__name__)
COMPLETE = "dstack-complete.json"
FROZEN = "dstack-packages.txt"
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that is kept: `count` environments, and `size` bytes of files (though uv may share some of them)."""

    count: int = 20
    size: int = 20 << 30


@dataclass(frozen=True, slots=True)
class _Found:
    """An environment on the disk. `used_at` is 0 for one that is not whole."""

    key: str
    used_at: int
    size: int


class KeptEnvironments:
    """For one agent: its home's lock sees to it that there is no other. `root` is made when missing."""

    def __init__(self, root: Path, limits: Limits) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self._limits = limits
        self._keys: dict[UUID, str] = {}
        """Which environment each attempt works in, or is about to."""
        self._locks: dict[str, asyncio.Lock] = {}
        self._changed = True
        """Whether there may be more to remove than at the last look."""

    # --- who uses what -----------------------------------------------------------------------------------------

    def hold(self, attempt_id: UUID, key: str) -> None:
        """The attempt works in `key`, or will: it is not removed until `release`."""
        self._keys[attempt_id] = key

    def packages(self, attempt_id: UUID) -> tuple[str, ...] | None:
        """The frozen list (`name==version`) of the environment that the attempt holds; None when it holds none.

        Without the user and password that an address may have.
        """
        key = self._keys.get(attempt_id)
        if key is None or not self.is_whole(key):
            return None
        text = (self.root / key / FROZEN).read_text(encoding="utf-8", errors="replace")
        return tuple(_CREDENTIALS.sub("***@", text).splitlines())

    async def release(self, attempt_id: UUID) -> None:
        """The attempt is over: remove an environment that was its alone."""
        key = self._keys.pop(attempt_id, None)
        if key is None:
            return
        self._changed = True
        if key == own_key(attempt_id):
            await self._remove(key)
        elif self.is_whole(key):
            self.touch(key)

    # --- what is there -----------------------------------------------------------------------------------------

    def is_whole(self, key: str) -> bool:
        """Whether it is there to be used; the interpreter that it was made from may have been removed since."""
        return (self.root / key / COMPLETE).exists() and (self.root / key / "bin" / "python").exists()

    def touch(self, key: str) -> None:
        """It is used now."""
        now = time.time_ns()  # what the kernel would take by itself may be milliseconds old
        os.utime(self.root / key / COMPLETE, ns=(now, now))

    async def complete(self, key: str, facts: Mapping[str, object]) -> None:
        """Declare it whole; the caller holds its lock."""
        venv = self.root / key
        size = await whole(_size_of, venv)
        temporary = venv / f"{COMPLETE}.new"
        temporary.write_text(json.dumps({**facts, "size": size, "built_at": time.time_ns() // 1000}), encoding="utf-8")
        faults.rename(temporary, venv / COMPLETE, "environment-complete")
        self._changed = True

    @contextlib.asynccontextmanager
    async def locked(self, key: str) -> AsyncGenerator[None]:
        """One builder or remover per key: among the attempts of this agent, and among agents that share a folder."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            fd = await _flocked(self.root / f"{key}.lock")
            try:
                yield
            finally:
                os.close(fd)
        if not lock.locked():
            self._locks.pop(key, None)

    # --- what goes ---------------------------------------------------------------------------------------------

    async def evict(self) -> list[str]:
        """Remove what is beyond the limits, and what was never finished; returns the keys. Cheap where nothing changed.

        What cannot be removed is told in the log and tried again the next time.
        """
        if not self._changed:
            return []
        self._changed = False
        gone: list[str] = []
        for key in self._surplus(await whole(self._found)):
            try:
                if await self._remove(key):
                    _log.info("removed the Python environment %s: nothing has used it for the longest time", key)
                    gone.append(key)
            except OSError as error:
                self._changed = True
                _log.warning("the Python environment %s cannot be removed: %s", key, error)
        return gone

    def _found(self) -> list[_Found]:
        return [_look(self.root, entry.name) for entry in os.scandir(self.root) if entry.is_dir(follow_symlinks=False)]

    def _surplus(self, found: list[_Found]) -> list[str]:
        """In the order in which they should go."""
        held = set(self._keys.values())
        count, size = len(found), sum(item.size for item in found)
        gone: list[str] = []
        for item in sorted(found, key=lambda item: item.used_at):
            over = count > self._limits.count or size > self._limits.size or not item.used_at
            if item.key not in held and over:
                gone.append(item.key)
                count, size = count - 1, size - item.size
        return gone

    async def _remove(self, key: str) -> bool:
        """Unless somebody has begun to use it. From the loss of its marker on, whoever needs it builds it anew."""
        async with self.locked(key):
            if key in self._keys.values():
                return False
            (self.root / key / COMPLETE).unlink(missing_ok=True)
            if (self.root / key).exists():
                await whole(shutil.rmtree, self.root / key)
            (self.root / f"{key}.lock").unlink(missing_ok=True)
        return True


def own_key(attempt_id: UUID) -> str:
    """The key of an environment that one attempt has for itself."""
    return f"attempt-{attempt_id.hex}"


def _look(root: Path, key: str) -> _Found:
    marker = root / key / COMPLETE
    try:
        used_at = marker.stat().st_mtime_ns
        size = json.loads(marker.read_bytes()).get("size", 0)
    except (FileNotFoundError, ValueError):
        return _Found(key, 0, 0)
    return _Found(key, used_at, size)


def _size_of(folder: Path) -> int:
    """Bytes of all files below `folder`."""
    size = 0
    for root, _, names in os.walk(folder):
        size += sum(os.lstat(os.path.join(root, name)).st_size for name in names)
    return size


async def _flocked(path: Path) -> int:
    """Open and lock the file, made when missing. flock has no event to wait for, and a thread blocked in it could not
    be cancelled."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if _lock(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        await asyncio.sleep(0.1)


def _lock(fd: int, path: Path) -> bool:
    """False where another holds it, or where the one who held it has removed the file."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(fd), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
