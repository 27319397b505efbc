"""The step's table: done when all its jobs are done; failed or stopped when one is; skipped when all are."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dstack.domain.lifecycle import Decision, Ignored, Transition
from dstack.domain.lifecycle.job import TERMINAL as JOB_TERMINAL
from dstack.domain.lifecycle.job import JobState


class StepState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"
    SKIPPED = "skipped"


TERMINAL = frozenset({StepState.DONE, StepState.FAILED, StepState.STOPPED, StepState.SKIPPED})


@dataclass(frozen=True, slots=True)
class Step:
    state: StepState
    open_jobs: int
    """Jobs of the step that are not terminal."""


@dataclass(frozen=True, slots=True)
class JobMoved:
    """One job of the step entered `state`."""

    state: JobState


def created(job_states: list[JobState]) -> Step:
    """A new step over its jobs' first states."""
    open_jobs = sum(state not in JOB_TERMINAL for state in job_states)
    if not open_jobs:
        return Step(StepState.DONE, 0)
    return Step(StepState.WAITING if JobState.WAITING in job_states else StepState.RUNNING, open_jobs)


def decide(step: Step, event: JobMoved, now: int) -> Decision[Step]:
    """The step's next value. A failed step stays failed while its siblings go on, so only the count moves."""
    if event.state not in JOB_TERMINAL:
        if step.state is StepState.WAITING and event.state is not JobState.WAITING:
            return Transition(Step(StepState.RUNNING, step.open_jobs))
        return Ignored("the step's state does not depend on it")
    open_jobs = step.open_jobs - 1
    if open_jobs < 0:
        return Ignored("every job of the step ended before")
    state = step.state
    if state not in TERMINAL:
        if event.state in (JobState.FAILED, JobState.STOPPED, JobState.SKIPPED):
            state = StepState(event.state)
        else:
            state = StepState.RUNNING if open_jobs else StepState.DONE
    return Transition(Step(state, open_jobs))


def success(state: StepState) -> bool:
    """What `success()` says of a dependency that ended."""
    return state is StepState.DONE
