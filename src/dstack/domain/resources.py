"""What a job asks of a machine (`Requirements`) and what a machine has (`Capacity`).

Sizes are bytes. `MB`/`GB` are decimal, `MiB`/`GiB`/`Mi`/`Gi` binary, `M`/`G` decimal, as users of the 2022
system wrote them (its era-B parser).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_UNITS = {
    "": 1, "B": 1,
    "K": 10**3, "KB": 10**3, "KI": 2**10, "KIB": 2**10,
    "M": 10**6, "MB": 10**6, "MI": 2**20, "MIB": 2**20,
    "G": 10**9, "GB": 10**9, "GI": 2**30, "GIB": 2**30,
    "T": 10**12, "TB": 10**12, "TI": 2**40, "TIB": 2**40,
}  # fmt: skip
_MEMORY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_memory(text: str) -> int:
    """Bytes of a size such as `64GB` or `512MiB`; raises ValueError that says which forms are accepted."""
    match = _MEMORY.fullmatch(text)
    if match is None or match[2].upper() not in _UNITS:
        raise ValueError(f"`{text}` is not a memory size; write for example 512MB, 16GB or 16GiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def format_memory(size: int) -> str:
    """A size for people: as it may have been written where that is exact (`64GB`), else binary with one decimal."""
    for unit in ("TB", "GB", "MB"):
        if size and size % _UNITS[unit] == 0 and size % _UNITS["GIB"]:
            return f"{size // _UNITS[unit]}{unit}"
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.1f}".removesuffix(".0") + unit
        value /= 1024
    return f"{value:.1f}".removesuffix(".0") + "TiB"


@dataclass(frozen=True, slots=True)
class Gpu:
    """GPUs asked for: `count` cards, each of `name` (case-insensitive) and at least `memory` bytes where given."""

    count: int = 0
    name: str | None = None
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class Requirements:
    """What one job asks for. A job that says nothing asks for one CPU and sees no GPU."""

    cpu: int = 1
    memory: int | None = None
    gpu: Gpu = field(default_factory=Gpu)
    shm_size: int | None = None
    interruptible: bool = False


@dataclass(frozen=True, slots=True)
class GpuCard:
    """One card of a machine; `memory` in bytes."""

    name: str
    memory: int


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one machine has, whole: `cpu` logical processors, `memory` bytes, its GPU cards."""

    cpu: int
    memory: int
    gpus: tuple[GpuCard, ...] = ()
