"""Metrics in lines of JSON: `{"step": 3, "loss": 0.25, "val": {"loss": 0.3}}`.

The form that `dstack.log`, many training loops and most logging libraries write. Names of nested values are joined
with `/`. `step` (or `global_step`, `iteration`, `iter`, `epoch`) says where a value stands; `time` (or `timestamp`,
seconds since 1970) when it was seen. What is no number is left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, cast

MAX_LINE = 64 * 1024
"""Bytes; a longer line is no line of metrics."""
MAX_NAME = 200
MAX_VALUES = 1000
"""Numbers of one line that are kept."""

_STEPS = ("step", "global_step", "iteration", "iter", "epoch")
_TIMES = ("time", "timestamp", "_timestamp")
_TEXTS_OF_LOGS = ("msg", "message", "level", "levelname", "severity")
_LONGEST_STEP = 2**53
_PLAUSIBLE_TIMES = (10**9, 10**10)
"""Seconds since 1970: 2001 to 2286. What lies outside is a duration, or something else."""


class Source(IntEnum):
    """What a line was read from."""

    REPORTED = 0
    """The file of `dstack.log`."""
    LOG = 1
    """The job's output."""
    WRITTEN = 2
    """`metrics.jsonl` in the job's working directory."""


def place_of(source: Source, offset: int) -> int:
    """The `seq` of the points of a line that begins at `offset`: read again, it is the same."""
    return offset * 4 + source


@dataclass(frozen=True, slots=True)
class MetricLine:
    """`at` is microseconds UTC, None where the line does not say; NaN stands for itself."""

    step: int | None
    at: int | None
    values: dict[str, float]


def parse(line: bytes, *, strict: bool = False) -> MetricLine | None:
    """The metrics of one line, None where it holds none.

    `strict` is for lines among a program's other output: structured log messages, which also hold numbers, are none.
    """
    text = line.strip()
    if not text.startswith(b"{") or not text.endswith(b"}") or len(text) > MAX_LINE:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if strict and any(isinstance(found.get(name), str) for name in _TEXTS_OF_LOGS):
        return None
    step_name = next((name for name in _STEPS if _is_whole(found.get(name))), None)
    time_name = next((name for name in _TIMES if _is_time(found.get(name))), None)
    values: dict[str, float] = {}
    for name, value in _numbers(found, ""):
        if name in (step_name, time_name) or len(values) >= MAX_VALUES:
            continue
        values[name] = value
    if not values:
        return None
    step = int(found[step_name]) if step_name else None
    return MetricLine(step, int(found[time_name] * 1_000_000) if time_name else None, values)


def _numbers(found: dict[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for key, value in found.items():
        name = f"{prefix}{key}"
        if len(name) > MAX_NAME or "\0" in name:
            continue
        if isinstance(value, dict):
            yield from _numbers(cast("dict[str, Any]", value), f"{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            number = _as_float(value)
            if number is not None:
                yield name, number


def _as_float(value: float) -> float | None:
    try:
        return float(value)
    except OverflowError:
        return None  # a whole number of hundreds of digits is an id


def _is_whole(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and value == int(value) and abs(value) <= _LONGEST_STEP


def _is_time(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and _PLAUSIBLE_TIMES[0] <= value <= _PLAUSIBLE_TIMES[1]
    )
