"""A control group per job, where this process may make one: the surest list of what a job started, and its OOM kills.

Both layouts are served: pure cgroup v2 (a delegated subtree or root) and the v1/v2 hybrid as root. In the hybrid the
unified hierarchy lists the members and the v1 memory controller counts OOM kills.
"""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JobGroup:
    """The folders of one job's group. `memory` is set only where the memory controller lives apart (v1)."""

    path: str
    memory: str = ""

    def populated(self) -> bool:
        """Whether a live process is in the group or below it."""
        return "populated 1" in _read(f"{self.path}/cgroup.events")

    def pids(self) -> list[int]:
        """Members, those of nested groups included."""
        found: list[int] = []
        for folder, _, _ in os.walk(self.path):
            found.extend(int(line) for line in _read(f"{folder}/cgroup.procs").split())
        return found

    def oom_kills(self) -> int | None:
        """Processes of the group that the kernel killed for memory; None where the group does not tell."""
        text = _read(f"{self.memory}/memory.oom_control" if self.memory else f"{self.path}/memory.events")
        for line in text.splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
        return None

    def kill(self) -> None:
        """SIGKILL to every member at once, the wrapper too (Linux 5.14)."""
        with contextlib.suppress(OSError):
            Path(self.path, "cgroup.kill").write_text("1")

    def remove(self) -> None:
        """Remove the folders, nested ones first. A group that still has members stays."""
        for top in filter(None, (self.path, self.memory)):
            for folder, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)


class Groups:
    """Makes job groups below this process's own. `memory` is where v1 memory groups can be made, else empty."""

    def __init__(self, unified: str, memory: str = "") -> None:
        self._unified = unified
        self._memory = memory

    def of(self, name: str) -> JobGroup:
        """The group of that name, made or not."""
        return JobGroup(f"{self._unified}/dstack-{name}", f"{self._memory}/dstack-{name}" if self._memory else "")

    def create(self, name: str, *, memory: bool) -> JobGroup | None:
        """A new group; None, with a line in the log, when the kernel refuses. A v1 `memory` group costs 0.2 ms more."""
        group = self.of(name) if memory else JobGroup(self.of(name).path)
        try:
            for folder in filter(None, (group.path, group.memory)):
                os.makedirs(folder, exist_ok=True)
        except OSError as error:
            log.warning("no control group for %s (%s); its processes are found by their environment", name, error)
            return None
        return group


def detect() -> tuple[Groups | None, str]:
    """The groups this process may make, or None and the reason in words. Costs one mkdir and rmdir."""
    mounts = _mounts()
    unified_mount = mounts.get("cgroup2")
    if unified_mount is None:
        return None, "this system has no unified control group hierarchy"
    own = _own_groups()
    unified = unified_mount + own.get("", "/").rstrip("/")
    probe = f"{unified}/dstack-probe-{os.getpid()}"
    try:
        os.mkdir(probe)
        os.rmdir(probe)
    except OSError as error:
        return None, f"control groups cannot be made in {unified}: {error.strerror}"
    memory_mount = mounts.get("memory")
    memory = memory_mount + own.get("memory", "/").rstrip("/") if memory_mount else ""
    return Groups(unified, memory if memory and os.access(memory, os.W_OK) else ""), ""


def _mounts() -> dict[str, str]:
    """Where cgroup v2 (`cgroup2`) and the v1 memory controller (`memory`) are mounted."""
    found: dict[str, str] = {}
    for line in _read("/proc/self/mounts").splitlines():
        _, target, kind, options, *_ = line.split(" ")
        if kind == "cgroup2":
            found.setdefault("cgroup2", target)
        elif kind == "cgroup" and "memory" in options.split(","):
            found.setdefault("memory", target)
    return found


def _own_groups() -> dict[str, str]:
    """Controller → path of this process's group; the unified hierarchy's key is empty."""
    groups: dict[str, str] = {}
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            groups[controller] = path
    return groups


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
