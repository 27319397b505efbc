"""Fault points: named places where a test may end the process, so that every crash window is proven.

A point costs one set look-up when nothing is armed. `DSTACK_FAULT=name[:n]` sends SIGKILL to this process the
n-th time `name` is reached; `DSTACK_FAULT_LOG=FILE` appends each name the first time it is reached. With
`DSTACK_FAULT_ONCE=FILE` only the process that makes FILE is killed: the one started in its place, with the same
environment, lives.
"""

from __future__ import annotations

import os
import signal

POINTS: set[str] = set()
"""Every declared name; a name not in it is a programming error that `point` reports."""


def declare(*names: str) -> None:
    """Declare points, once, at import of the module that has them."""
    POINTS.update(names)


class _Armed:
    """What this process was told by its environment; read once at import."""

    def __init__(self) -> None:
        told = os.environ.get("DSTACK_FAULT", "")
        name, _, count = told.rpartition(":")  # names have colons too: `commit:place:before`
        self.name = name if count.isdigit() else told
        self.left = int(count) if count.isdigit() else 1
        self.log = os.environ.get("DSTACK_FAULT_LOG", "")
        self.once = os.environ.get("DSTACK_FAULT_ONCE", "")
        self.seen: set[str] = set()
        self.active = bool(self.name or self.log)

    def may_kill(self) -> bool:
        """Whether no other process was killed here before."""
        if not self.once:
            return True
        try:
            os.close(os.open(self.once, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            return False
        return True


_armed = _Armed()


def point(name: str) -> None:
    """Mark that execution is at `name`; raises KeyError when the name was never declared."""
    if not _armed.active:
        return
    if name not in POINTS:
        raise KeyError(f"fault point {name!r} is not declared")
    if _armed.log and name not in _armed.seen:
        _armed.seen.add(name)
        with open(_armed.log, "a", encoding="utf-8") as file:
            file.write(name + "\n")
    if name == _armed.name:
        _armed.left -= 1
        if _armed.left == 0 and _armed.may_kill():
            os.kill(os.getpid(), signal.SIGKILL)


def rename(source: str | os.PathLike[str], target: str | os.PathLike[str], name: str) -> None:
    """`os.replace` between the points `name:before` and `name:after`."""
    point(f"{name}:before")
    os.replace(source, target)
    point(f"{name}:after")
