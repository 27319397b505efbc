"""Which processes belong to a job: its wrapper's descendants, its session, and whoever carries its marker.

A daemon leaves the tree (its parent dies) and the session (`setsid`) but hardly ever changes the environment it was
started with, which `/proc/PID/environ` shows. Read on Linux from /proc; elsewhere through psutil, which cannot
always read environments: the kill there is weaker.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Collection, Iterable
from typing import NamedTuple

LINUX = sys.platform == "linux"
_KERNEL = 2
"""Parent of the kernel's own threads."""


class Entry(NamedTuple):
    """One live process. `start` is in clock ticks since boot on Linux, else in hundredths of a second since 1970."""

    pid: int
    parent: int
    session: int
    start: int
    zombie: bool


class Root(NamedTuple):
    """What is known of a job: the marker in its environment, its wrapper, and whether that was watched all along.

    Only a watched wrapper's session counts: after its end the number may have gone to somebody else.
    """

    marker: bytes
    pid: int
    start: int
    watched: bool


def members(root: Root, also: Collection[tuple[int, int]] = ()) -> list[Entry]:
    """Every live process of the job but its wrapper and ourselves; `also`: (pid, start time) known to be members."""
    table = snapshot()
    own = os.getpid()
    found = {pid for pid, start in also if pid in table and table[pid].start == start}
    blank: list[int] = []
    for entry in table.values():
        if entry.start < root.start or entry.pid == own:
            continue
        if root.watched and root.pid > 0 and entry.session == root.pid:
            found.add(entry.pid)
        elif not entry.zombie and entry.parent != _KERNEL:
            variables = environment(entry.pid)
            if root.marker in variables:
                found.add(entry.pid)
            elif len(variables) <= 1:
                blank.append(entry.pid)
    # In the midst of an exec a process shows no environment: look at those again.
    found.update(pid for pid in blank if root.marker in environment(pid))
    wrapper = table.get(root.pid)
    if wrapper is not None and wrapper.start == root.start:
        found.add(root.pid)
    _add_descendants(table, found)
    return [table[pid] for pid in found - {root.pid, own} if not table[pid].zombie]


def snapshot() -> dict[int, Entry]:
    """All processes by pid, zombies included."""
    if not LINUX:
        return _snapshot_by_psutil()
    table: dict[int, Entry] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            entry = read_entry(int(name))
            if entry is not None:
                table[entry.pid] = entry
    return table


def read_entry(pid: int) -> Entry | None:
    """One process, None when there is no such process (any more)."""
    if not LINUX:
        return _snapshot_by_psutil().get(pid)
    data = _read(f"/proc/{pid}/stat")
    fields = data[data.rfind(b")") + 2 :].split()
    if len(fields) < 20:
        return None
    over = fields[0] in (b"Z", b"X") and int(fields[17]) <= 1  # a dead first thread may have left live ones
    return Entry(pid, int(fields[1]), int(fields[3]), int(fields[19]), over)


def environment(pid: int) -> bytes:
    """`NAME=value` entries, each ended by NUL, as the process was started; empty where it may not be read."""
    if LINUX:
        return b"\0" + _read(f"/proc/{pid}/environ")
    import psutil

    try:
        pairs = psutil.Process(pid).environ()
    except psutil.Error:
        return b""
    return b"\0" + b"".join(f"{name}={value}\0".encode() for name, value in pairs.items())


def command(pid: int) -> bytes:
    """Program and arguments, each ended by NUL; empty where they cannot be read."""
    return _read(f"/proc/{pid}/cmdline") if LINUX else b""


def send(entries: Iterable[Entry], number: signal.Signals) -> set[Entry]:
    """Signal exactly these processes, never a recycled pid; returns those that could not be signalled."""
    refused: set[Entry] = set()
    for entry in entries:
        try:
            _send(entry, number)
        except ProcessLookupError:
            continue
        except PermissionError:
            refused.add(entry)
    return refused


def _send(entry: Entry, number: signal.Signals) -> None:
    if not LINUX:
        if read_entry(entry.pid) == entry:
            os.kill(entry.pid, number)
        return
    fd = os.pidfd_open(entry.pid)
    try:
        current = read_entry(entry.pid)
        if current is not None and current.start == entry.start:
            signal.pidfd_send_signal(fd, number)
    finally:
        os.close(fd)


def _add_descendants(table: dict[int, Entry], found: set[int]) -> None:
    children: dict[int, list[int]] = {}
    for entry in table.values():
        children.setdefault(entry.parent, []).append(entry.pid)
    pending = list(found)
    while pending:
        for child in children.get(pending.pop(), ()):
            if child not in found:
                found.add(child)
                pending.append(child)


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        parts = [os.read(fd, 65536)]
        while parts[-1]:
            parts.append(os.read(fd, 65536))
        return b"".join(parts)
    except OSError:  # ESRCH: it ended between the open and the read
        return b""
    finally:
        os.close(fd)


def _snapshot_by_psutil() -> dict[int, Entry]:
    import psutil

    table: dict[int, Entry] = {}
    for process in psutil.process_iter(["pid", "ppid", "create_time", "status"]):
        try:
            session = os.getsid(process.pid)
        except OSError:
            session = 0
        info = process.info
        zombie = info["status"] == psutil.STATUS_ZOMBIE
        start = int((info["create_time"] or 0) * 100)
        table[process.pid] = Entry(process.pid, info["ppid"] or 0, session, start, zombie)
    return table
