"""The transition tables: pure functions `decide(state, event, now)` for job, attempt, step, run and runner.

Every (state, event, attempt older | current | unknown) gives one of

- `Transition`  the object's next value, and effects that the caller carries out;
- `Ignored`     a duplicate or stale message, answered as the first time;
- `Refused`     a message that contradicts the object's story, which the caller prints whole.

Nothing here reads a clock, a database or a message; `services.apply` is the one place that carries it out.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class Outcome(StrEnum):
    """What a step comes to for its dependents; stopped counts as failed."""

    SUCCESS = "success"
    FAILURE = "failure"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Signal:
    """Tell the attempt's runner to stop (or abort) it."""

    abort: bool


@dataclass(frozen=True, slots=True)
class Recall:
    """Ask the runner to give an attempt back that it has not accepted."""


@dataclass(frozen=True, slots=True)
class BeginAttempt:
    """Make the attempt row `number`."""

    number: int


@dataclass(frozen=True, slots=True)
class EndAttempt:
    """End the attempt row `number` with an outcome (a reason's value, or `recalled` and the like)."""

    number: int
    outcome: str


@dataclass(frozen=True, slots=True)
class MarkPartial:
    """What this attempt saved so far is not a whole artifact set."""


@dataclass(frozen=True, slots=True)
class StopSiblings:
    """Ask the step's other jobs to stop."""


@dataclass(frozen=True, slots=True)
class TellDependents:
    """Tell the steps that depend on this one what it came to, and whether its last job has ended."""

    outcome: Outcome | None
    over: bool


@dataclass(frozen=True, slots=True)
class Release:
    """The step's rule is decided: let its waiting jobs begin, or skip them."""

    begin: bool


Effect = Signal | Recall | BeginAttempt | EndAttempt | MarkPartial | StopSiblings | TellDependents | Release


@dataclass(frozen=True, slots=True)
class Transition(Generic[T]):
    after: T
    effects: tuple[Effect, ...] = ()


@dataclass(frozen=True, slots=True)
class Ignored:
    why: str
    late: bool = False
    """The message came after its attempt's end: it goes to the attempt's `late_*` columns."""


@dataclass(frozen=True, slots=True)
class Refused:
    why: str


Decision = Transition[T] | Ignored | Refused
