"""Waits for spool files to grow, at a price that does not depend on how often a job writes.

Each wait arms one inotify watch that the kernel drops after the first event (IN_ONESHOT); it is armed again only when
somebody waits again, and at the earliest 20 ms after the last wake-up. A job that writes a line at a time so costs at
most 50 wake-ups a second, and none while nobody waits. Without inotify the file's size is looked at.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

INTERVAL = 0.02
"""Seconds between two wake-ups for one file."""
_POLL_FIRST, _POLL_LAST = 0.02, 0.5
_IN_MODIFY, _IN_ONESHOT = 0x2, 0x80000000
_EVENT = struct.Struct("iIII")


@dataclass(slots=True)
class _Waiter:
    """Who waits for one watch descriptor: several waits for one file share it."""

    changed: asyncio.Event
    count: int = 0


class SpoolWatch:
    """Waits for files to grow; one per agent, used from its asyncio loop. Call `close` at the end."""

    def __init__(self) -> None:
        self._fd = _inotify_init()
        self._waiters: dict[int, _Waiter] = {}
        self._woken: dict[Path, float] = {}
        if self._fd >= 0:
            asyncio.get_running_loop().add_reader(self._fd, self._events)

    async def grown(self, path: Path, beyond: int) -> int:
        """Wait until `path` is larger than `beyond` bytes; returns its size. A file not there yet counts as empty."""
        loop = asyncio.get_running_loop()
        wait = self._woken.get(path, 0.0) + INTERVAL - loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
        size = _size(path)
        if size <= beyond:
            size = await self._wait(path, beyond)
        self._woken[path] = loop.time()
        return size

    def forget(self, path: Path) -> None:
        """No more waits for this file are to come."""
        self._woken.pop(path, None)

    def close(self) -> None:
        """Stop watching. Waits that are under way must have been cancelled."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    async def _wait(self, path: Path, beyond: int) -> int:
        pause = _POLL_FIRST
        while True:
            watch = self._arm(path)
            if watch is None:
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, _POLL_LAST)
            else:
                await self._event(watch, path, beyond)
            size = _size(path)
            if size > beyond:
                return size

    async def _event(self, watch: int, path: Path, beyond: int) -> None:
        waiter = self._waiters.setdefault(watch, _Waiter(asyncio.Event()))
        waiter.count += 1
        try:
            if _size(path) <= beyond:  # it may have grown before the watch was there
                await waiter.changed.wait()
        finally:
            waiter.count -= 1
            if waiter.count == 0 and self._waiters.get(watch) is waiter:
                del self._waiters[watch]
                _libc.inotify_rm_watch(self._fd, watch)

    def _arm(self, path: Path) -> int | None:
        if self._fd < 0:
            return None
        watch = _libc.inotify_add_watch(self._fd, os.fsencode(path), ctypes.c_uint32(_IN_MODIFY | _IN_ONESHOT))
        return watch if watch >= 0 else None

    def _events(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        position = 0
        while position < len(data):
            watch, _, _, length = _EVENT.unpack_from(data, position)
            position += _EVENT.size + length
            waiter = self._waiters.pop(watch, None)
            if waiter is not None:
                waiter.changed.set()


_libc = ctypes.CDLL(None, use_errno=True)


def _inotify_init() -> int:
    """A non-blocking inotify descriptor, -1 where there is none (other systems, or the user's limit is reached)."""
    if sys.platform != "linux":
        return -1
    fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        log.warning("inotify is not to be had (%s); spools are polled", os.strerror(ctypes.get_errno()))
    return fd


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
