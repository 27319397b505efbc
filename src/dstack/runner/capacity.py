"""What this machine offers to jobs: processors, memory and GPU cards, limits of our own control group included.

GPUs are asked for in a process of its own, because a broken driver library can take its caller down.
"""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from dstack.domain.resources import Capacity, GpuCard

log = logging.getLogger(__name__)

_PROBE_SECONDS = 20
_NVML = """
import json, pynvml
pynvml.nvmlInit()
cards = []
for index in range(pynvml.nvmlDeviceGetCount()):
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    name = pynvml.nvmlDeviceGetName(handle)
    name = name.decode() if isinstance(name, bytes) else name
    cards.append([name, int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)])
print(json.dumps(cards))
"""
_SMI = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")


def detect() -> Capacity:
    """The capacity of this machine, as far as this process may use it."""
    return Capacity(cpu_count(), memory_size(), detect_gpus())


def cpu_count(root: Path = Path("/")) -> int:
    """Logical processors we may run on, rounded up where a control group's quota allows a fraction; at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    for folder in _own_groups(root, "cpu"):
        quota = _cpu_quota(folder)
        if quota is not None:
            count = min(count, math.ceil(quota))
    return max(1, count)


def memory_size(root: Path = Path("/")) -> int:
    """Bytes of memory we may use: the machine's, or less where a control group limits it."""
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for folder in _own_groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name)
            if text.isdigit():
                size = min(size, int(text))
    return size


def detect_gpus(environment: Mapping[str, str] = os.environ) -> tuple[GpuCard, ...]:
    """The NVIDIA cards of this machine, through nvidia-ml-py where it is installed, else nvidia-smi; none otherwise."""
    cards = _run((sys.executable, "-c", _NVML), environment)
    if cards is not None:
        try:
            return tuple(GpuCard(str(name), int(memory)) for name, memory in json.loads(cards))
        except ValueError:
            log.warning("the GPU probe answered %r, which is not understood", cards[:200])
    listing = _run(_SMI, environment)
    return parse_smi(listing) if listing is not None else ()


def parse_smi(text: str) -> tuple[GpuCard, ...]:
    """The cards in the output of `nvidia-smi --query-gpu=name,memory.total` (MiB)."""
    found: list[GpuCard] = []
    for line in text.splitlines():
        name, _, memory = line.rpartition(",")
        if name and memory.strip().isdigit():
            found.append(GpuCard(name.strip(), int(memory) << 20))
    return tuple(found)


def _run(command: tuple[str, ...], environment: Mapping[str, str]) -> str | None:
    """What the program prints; None when it is missing, fails, crashes or hangs."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PROBE_SECONDS, env=dict(environment), check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        if not isinstance(error, FileNotFoundError):
            log.warning("no GPU is offered: %s", error)
        return None
    if done.returncode < 0:
        log.warning("%s crashed with signal %d while asking for GPUs", command[0], -done.returncode)
    return done.stdout if done.returncode == 0 else None


def _own_groups(root: Path, controller: str) -> Iterator[Path]:
    """Our control group's folder for `controller`, v1 and v2, and every folder above it."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            bases = [root / "sys/fs/cgroup"]
        elif controller in controllers.split(","):
            bases = [root / "sys/fs/cgroup" / controllers, root / "sys/fs/cgroup" / controller]
        else:
            continue
        for base in bases:
            folder = base / path.lstrip("/")
            # In a container the path may be the host's, which is not mounted here: then only the top applies.
            yield from (place for place in (folder, *folder.parents) if place == base or base in place.parents)


def _cpu_quota(folder: Path) -> float | None:
    """Processors' worth of time the group may use; None for no limit."""
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    if not quota:
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
