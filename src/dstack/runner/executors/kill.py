"""Ends everything a job started, and only that.

Orphans of jobs become children of this process (it is a subreaper), so after a job's end one look at our own children
tells whether anything is left; only then is the whole process table searched.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from uuid import UUID

from dstack.runner.executors import tree, watch
from dstack.runner.executors.cgroup import JobGroup
from dstack.runner.executors.interface import MARKER, Survivors

log = logging.getLogger(__name__)

_KILL_TIME = 4.5
"""Seconds until a process that SIGKILL does not end is given up on."""


@dataclass(slots=True, eq=False)
class Target:
    """What is known of a job's processes. `pid` 0: only the attempt's id is known.

    `start` 0 for a child whose start time was not asked for yet; `watched`: see `tree.Root`.
    """

    attempt_id: UUID
    pid: int = 0
    start: int = 0
    group: JobGroup | None = None
    child: bool = False
    watched: bool = False

    def carries_marker(self) -> bool:
        """Whether the process of that number has this job's marker: the last guard against a recycled pid."""
        return self.marker() in tree.environment(self.pid)

    def marker(self) -> bytes:
        return f"\0{MARKER}={self.attempt_id.hex}\0".encode()

    def root(self) -> tree.Root:
        return tree.Root(self.marker(), self.pid, self.start, self.watched)


class Killer:
    """Knows the running wrappers of this agent and which adopted orphans may be whose."""

    def __init__(self) -> None:
        self._running: dict[int, Target] = {}
        self._strays: dict[tuple[int, int], set[UUID]] = {}
        """Orphan without a marker we know (pid, start time) → jobs that may have started it: it dies with the last."""
        self._markers: set[bytes] = set()
        """Of jobs that were not swept yet."""
        self._session = os.getsid(0)
        self._inherited = frozenset(_children())
        """Children this process had before it ran any job."""

    def add(self, target: Target) -> None:
        """A wrapper runs."""
        self._running[target.pid] = target
        self._markers.add(target.marker())

    def ended(self, target: Target) -> None:
        """Its wrapper is over and was waited for."""
        self._running.pop(target.pid, None)

    def forget(self, target: Target) -> None:
        """The job was swept."""
        self._markers.discard(target.marker())
        for owners in self._strays.values():
            owners.discard(target.attempt_id)

    def strangers(self, target: Target) -> bool:
        """Whether an orphan among our children is this job's."""
        orphans = self._orphans()
        if not orphans:
            return False
        marker = target.marker()
        found = False
        for entry in orphans:
            environment = tree.environment(entry.pid)
            if len(environment) <= 1:  # in the midst of an exec, or without any variable
                environment = tree.environment(entry.pid)
            others = any(other in environment for other in self._markers - {marker})
            mine = marker in environment or entry.session == target.pid
            if mine or (not others and self._last_owner(entry, target)):
                found = True
        return found

    def reap(self) -> None:
        """Collect the statuses of orphans that have ended."""
        self._orphans()

    async def exists(self, target: Target) -> bool:
        """Whether any process of the job, its wrapper included, is alive."""
        return bool(await asyncio.to_thread(tree.members, target.root()))

    async def stop(self, target: Target, grace: float) -> Survivors:
        """SIGTERM (and SIGCONT, for those that are held), `grace` seconds, SIGKILL."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        told: set[tree.Entry] = set()
        while loop.time() < deadline:
            members = await self._members(target, told)
            wrapper = self._wrapper(target)
            if not members and wrapper is None:
                self.reap()
                return Survivors()
            if not told and not _starting(members, wrapper):
                # Told once: what is started from here on is most likely the clean-up of those that were told.
                await _signal(members, signal.SIGTERM, signal.SIGCONT)
                told.update(members)
            wait = deadline - loop.time() if told and members else 0.01
            await watch.any_end(members or filter(None, [wrapper]), wait)
            self.reap()
        return await self.kill(target, told)

    async def kill(self, target: Target, known: Collection[tree.Entry] = ()) -> Survivors:
        """SIGKILL, until nothing is left. All are held first, so that none can start another meanwhile.

        `known`: members found before; once its parent is gone a process may not be recognisable any more.
        The wrapper is spared for a second after its command's end, to record that.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _KILL_TIME
        spare = loop.time() + 1
        seen = set(known)
        killed: set[tree.Entry] = set()
        left = await self._members(target, seen)
        wrapper = self._wrapper(target)
        while (left or wrapper) and loop.time() < deadline:
            if left:
                await self._hold(target, left, seen)
                left = await self._members(target, seen)
                await _signal(left, signal.SIGKILL)
                killed.update(left)
                seen.update(left)
            elif wrapper:
                await _signal([wrapper], signal.SIGCONT if loop.time() < spare else signal.SIGKILL)
            await watch.any_end(left or filter(None, [wrapper]), 0.1)
            self.reap()
            left = await self._members(target, seen)
            wrapper = self._wrapper(target)
        self.reap()
        if left:
            names = ", ".join(str(entry.pid) for entry in left[:10])
            log.warning("processes of attempt %s survive SIGKILL: %s", target.attempt_id.hex, names)
        dead = len(set(map(_identity, killed))) - len(left)
        return Survivors(dead, tuple(entry.pid for entry in left))

    async def _hold(self, target: Target, first: list[tree.Entry], seen: set[tree.Entry]) -> None:
        """SIGSTOP to all members, until a look finds no other; adds them to `seen`."""
        fresh = {_identity(entry): entry for entry in first}
        held: set[tuple[int, int]] = set()
        for _ in range(8):
            await _signal(fresh.values(), signal.SIGSTOP)
            held.update(fresh)
            seen.update(fresh.values())
            members = await self._members(target, seen)
            fresh = {_identity(entry): entry for entry in members if _identity(entry) not in held}
            if not fresh:
                return

    async def _members(self, target: Target, known: Collection[tree.Entry] = ()) -> list[tree.Entry]:
        if target.start == 0 and target.pid in self._running:
            entry = tree.read_entry(target.pid)
            target.start = entry.start if entry else 0
        also = [key for key, owners in self._strays.items() if owners == {target.attempt_id}]
        also += map(_identity, known)
        if target.group is not None:
            entries = (tree.read_entry(pid) for pid in target.group.pids())
            also.extend((entry.pid, entry.start) for entry in entries if entry)
        return await asyncio.to_thread(tree.members, target.root(), also)

    def _wrapper(self, target: Target) -> tree.Entry | None:
        """The job's wrapper while it is alive and known not to be somebody else."""
        if target.child and target.pid not in self._running:
            return None
        entry = tree.read_entry(target.pid) if target.pid else None
        return None if entry is None or entry.zombie or entry.start != target.start else entry

    def _last_owner(self, entry: tree.Entry, target: Target) -> bool:
        running = {other.attempt_id for other in self._running.values()}
        owners = self._strays.setdefault((entry.pid, entry.start), running | {target.attempt_id})
        return owners == {target.attempt_id}

    def _orphans(self) -> list[tree.Entry]:
        """Live children of ours that no wrapper is and that stand outside our own session; dead ones are reaped."""
        found: list[tree.Entry] = []
        for pid in _children():
            if pid in self._running or pid in self._inherited:
                continue
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                if os.getsid(pid) == self._session or os.waitpid(pid, os.WNOHANG)[0] == pid:
                    continue
                entry = tree.read_entry(pid)
                if entry is not None:
                    found.append(entry)
        if self._strays:
            alive = {(entry.pid, entry.start) for entry in found}
            self._strays = {key: owners for key, owners in self._strays.items() if key in alive}
        return found


def _identity(entry: tree.Entry) -> tuple[int, int]:
    """What stays the same when a process gets another parent."""
    return entry.pid, entry.start


def _starting(members: list[tree.Entry], wrapper: tree.Entry | None) -> bool:
    """Whether the wrapper has yet to become the command: in between, a shell swallows the signals it traps."""
    if wrapper is None:
        return False
    script = tree.command(wrapper.pid)
    return not members or any(entry.parent == wrapper.pid and tree.command(entry.pid) == script for entry in members)


async def _signal(entries: Iterable[tree.Entry], *numbers: signal.Signals) -> None:
    targets = list(entries)
    for number in numbers:
        if targets:
            await asyncio.to_thread(tree.send, targets, number)


def _children() -> list[int]:
    """Pids of our children and adopted orphans. The kernel gives orphans to the first thread."""
    own = os.getpid()
    if tree.LINUX:
        with contextlib.suppress(FileNotFoundError):  # a kernel without CONFIG_PROC_CHILDREN
            with open(f"/proc/self/task/{own}/children", "rb") as file:
                return [int(pid) for pid in file.read().split()]
        return [entry.pid for entry in tree.snapshot().values() if entry.parent == own]
    return []
