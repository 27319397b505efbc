"""The attempt's table. States: assigned starting running saving → ended; it only moves forward.

The job's table decides; its newest attempt follows. While the job is in one of `job.LIVE_ATTEMPT` the attempt has
the state of the same name, and anything else ends it. What comes after its end is late: it is kept beside the
attempt (`late_*` columns) and never touches the job.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from dstack.domain.lifecycle import Decision, EndAttempt, Ignored, Refused, Transition
from dstack.domain.lifecycle.job import LIVE_ATTEMPT, Job

SUPERSEDED = "superseded"
"""The outcome of an attempt whose end was never told, when the job has gone on without it."""


class AttemptState(StrEnum):
    """In the order of its life."""

    ASSIGNED = "assigned"
    STARTING = "starting"
    RUNNING = "running"
    SAVING = "saving"
    ENDED = "ended"


TERMINAL = frozenset({AttemptState.ENDED})


@dataclass(frozen=True, slots=True)
class Attempt:
    number: int
    state: AttemptState = AttemptState.ASSIGNED
    outcome: str | None = None
    """A reason's value, `returned`, `rejected` or `superseded`; None until the end."""


def of(job: Job) -> Attempt | None:
    """The live attempt of a job, as the job's own state tells it; None when it has none."""
    return Attempt(job.attempt, AttemptState(job.state)) if job.state in LIVE_ATTEMPT else None


def follow(attempt: Attempt, move: Transition[Job]) -> Decision[Attempt]:
    """The attempt's next value after its job made `move`."""
    job = move.after
    if attempt.state in TERMINAL:
        return Ignored(f"attempt {attempt.number} ended before ({attempt.outcome})", late=True)
    if job.attempt < attempt.number:
        return Refused(f"attempt {attempt.number} does not exist; the newest is {job.attempt}")
    if job.attempt > attempt.number or job.state not in LIVE_ATTEMPT:
        return Transition(replace(attempt, state=AttemptState.ENDED, outcome=_outcome(attempt, move)))
    state = AttemptState(job.state)
    if state is attempt.state:
        return Ignored("the attempt's state does not depend on it")
    if _ORDER[state] < _ORDER[attempt.state]:
        return Refused(f"attempt {attempt.number} is {attempt.state}: it cannot go back to {state}")
    return Transition(replace(attempt, state=state))


def _outcome(attempt: Attempt, move: Transition[Job]) -> str:
    told = (effect for effect in move.effects if isinstance(effect, EndAttempt) and effect.number == attempt.number)
    end = next(told, None)
    return SUPERSEDED if end is None else str(end.outcome)


_ORDER = {state: place for place, state in enumerate(AttemptState)}
