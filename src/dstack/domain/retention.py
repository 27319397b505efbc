"""How long snapshots and runs are kept: the rules of a project, and which snapshots go by them.

Of the snapshots that a job takes of one artifact while it runs, all are kept for `live`; of older ones the last of each
stretch of `every`, and the last few of each attempt. Those of an attempt that a later one has taken the place of go
`partials` after that one's first snapshot. The newest of all never goes, nor the newest that holds files, nor what is
pinned. Times are microseconds.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, NamedTuple
from uuid import UUID

SECOND: Final = 1_000_000
HOUR: Final = 3600 * SECOND
DAY: Final = 24 * HOUR
FOREVER: Final = 2**62
"""Longer than anything; stored as it is."""


@dataclass(frozen=True, slots=True)
class Retention:
    """Durations in microseconds, `last` a number; `runs`: when finished runs without a tag are deleted."""

    live: int = HOUR
    every: int = 600 * SECOND
    last: int = 3
    partials: int = 7 * DAY
    runs: int = FOREVER


class Snapshot(NamedTuple):
    """One of the snapshots of one artifact of one job. `live`: taken while the job ran; `pinned`: it stays; `holds`:
    any files."""

    id: UUID
    attempt: int
    at: int
    live: bool
    pinned: bool = False
    holds: bool = True


class RuleError(Exception):
    """A rule that cannot be read; `hint` says what to write."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def going(snapshots: Sequence[Snapshot], rules: Retention, now: int) -> list[Snapshot]:
    """Those that are not kept. `snapshots` come by attempt, in the order in which they were taken."""
    replaced_at = _first_times(snapshots)
    found: list[Snapshot] = []
    newer: dict[int, int] = {}
    """By attempt, how many of its snapshots came after the one at hand."""
    stretches: set[tuple[int, int]] = set()
    is_held = False
    for snapshot in reversed(snapshots):
        is_newest = not newer or (snapshot.holds and not is_held)
        is_held = is_held or snapshot.holds
        is_last = newer.get(snapshot.attempt, 0) < max(1, rules.last)
        newer[snapshot.attempt] = newer.get(snapshot.attempt, 0) + 1
        stretch = (snapshot.attempt, snapshot.at // rules.every)
        stands_for_stretch = stretch not in stretches
        if snapshot.live:
            stretches.add(stretch)
        if is_newest or snapshot.pinned:
            continue
        replaced = replaced_at.get(snapshot.attempt, FOREVER)
        is_over = max(replaced, snapshot.at) + rules.partials <= now
        is_old = snapshot.live and snapshot.at + rules.live <= now
        if is_over or (is_old and not is_last and not stands_for_stretch):
            found.append(snapshot)
    return found[::-1]


def _first_times(snapshots: Sequence[Snapshot]) -> Mapping[int, int]:
    """By attempt, when a later one took its first snapshot; the last attempt has no such time."""
    firsts: dict[int, int] = {}
    for snapshot in snapshots:
        firsts.setdefault(snapshot.attempt, snapshot.at)
    attempts = sorted(firsts)
    return {attempt: firsts[later] for attempt, later in pairwise(attempts)}


def changed(rules: Retention, given: Mapping[str, str]) -> Retention:
    """The rules with those that are given in words, as `live=2h`. Raises RuleError."""
    return replace(rules, **{name: _value(name, text) for name, text in given.items()})


def words(rules: Retention) -> dict[str, str]:
    """The rules as a person writes them."""
    return {name: str(rules.last) if name == "last" else _duration_words(getattr(rules, name)) for name in RULES}


RULES: Final = {
    "live": "every snapshot of a running job is kept for this long",
    "every": "of older ones, one for each stretch of this length",
    "last": "and this many of the newest of each attempt",
    "partials": "snapshots of an attempt that a later one took the place of are kept for this long",
    "runs": "finished runs that have no tag, and that no other run uses, are deleted after this long",
}
"""What each rule says."""
_UNITS: Final = {"w": 7 * DAY, "d": DAY, "h": HOUR, "m": 60 * SECOND, "s": SECOND}
_DURATION: Final = re.compile(r"(\d{1,6})\s*([a-z]+)")
_NOT_ZERO: Final = ("every", "runs")
"""Rules to which no time at all is none: runs would be gone before anybody has seen them."""
_NO_END: Final = ("never", "forever")
_LONG: Final = {"weeks": "w", "days": "d", "hours": "h", "minutes": "m", "min": "m", "mins": "m", "seconds": "s"}


def _value(name: str, text: str) -> int:
    if name not in RULES:
        near = difflib.get_close_matches(name, RULES, 1, 0.5)
        raise RuleError(
            f"there is no rule `{name[:50]}`",
            f"did you mean `{near[0]}`?" if near else f"the rules are {', '.join(RULES)}",
        )
    if name == "last":
        if not re.fullmatch(r"[1-9]\d{0,5}", text):
            raise RuleError(f"last: `{text[:50]}` is not a number of snapshots, 1 or more", "as in last=3")
        return int(text)
    return duration(name, text.strip().lower())


def duration(name: str, text: str) -> int:
    """Microseconds of what was given for `name`, as in 10m or never. Raises RuleError."""
    if text in _NO_END and name != "every":
        return FOREVER
    match = _DURATION.fullmatch(text)
    unit = match[2] if match else ""
    unit = _LONG.get(unit, _LONG.get(f"{unit}s", unit))
    if match is None or unit not in _UNITS or (name in _NOT_ZERO and not int(match[1])):
        near = difflib.get_close_matches(text, _NO_END, 1) if name != "every" else []
        ways = "as in 90s, 10m, 1h, 7d or 4w" + (", or never" if name != "every" else "")
        raise RuleError(
            f"{name}: `{text[:50]}` is not a length of time", f"did you mean `{near[0]}`?" if near else ways
        )
    return int(match[1]) * _UNITS[unit]


def _duration_words(value: int) -> str:
    if value >= FOREVER:
        return "never"
    for unit, length in _UNITS.items():
        if unit != "w" and value and value % length == 0:
            return f"{value // length}{unit}"
    return f"{value // SECOND}s"
