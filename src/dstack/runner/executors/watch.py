"""Tells when a process ends, be it a child or not: by pidfd on Linux, by looking now and then elsewhere."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable

from dstack.runner.executors import tree

_POLL = 0.05


def on_end(pid: int, start: int | None, ended: Callable[[], None]) -> bool:
    """Call `ended` once from the loop when the process is over; False when there is no such process already.

    `start` guards against a recycled pid; None for a child of ours that was not waited for.
    """
    if not tree.LINUX:
        return _poll(pid, start, ended)
    loop = asyncio.get_running_loop()
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    if start is not None:
        entry = tree.read_entry(pid)
        if entry is None or entry.start != start or entry.zombie:
            os.close(fd)
            return False

    def readable() -> None:
        loop.remove_reader(fd)
        os.close(fd)
        ended()

    loop.add_reader(fd, readable)
    return True


async def any_end(entries: Iterable[tree.Entry], seconds: float) -> None:
    """Wait until one of a few of these processes is over, at most so many seconds."""
    first = asyncio.Event()
    fds: list[int] = []
    if not tree.LINUX:
        await asyncio.sleep(min(seconds, _POLL))
        return
    loop = asyncio.get_running_loop()
    try:
        for entry in list(entries)[:16]:
            fd = os.pidfd_open(entry.pid)
            fds.append(fd)
            loop.add_reader(fd, first.set)
        async with asyncio.timeout(seconds):
            await first.wait()
    except (ProcessLookupError, TimeoutError):
        return
    finally:
        for fd in fds:
            loop.remove_reader(fd)
            os.close(fd)


def _poll(pid: int, start: int | None, ended: Callable[[], None]) -> bool:
    entry = tree.read_entry(pid)
    if entry is None or entry.zombie or (start is not None and entry.start != start):
        return False
    loop = asyncio.get_running_loop()

    def look() -> None:
        now = tree.read_entry(pid)
        if now is None or now.zombie or now.start != entry.start:
            ended()
        else:
            loop.call_later(_POLL, look)

    loop.call_later(_POLL, look)
    return True
