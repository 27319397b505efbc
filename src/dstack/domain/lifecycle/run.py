"""The run's table. States: planning queued running → done failed stopped; after planning, a stored roll-up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from dstack.domain.lifecycle import Decision, Ignored, Refused, Transition
from dstack.domain.lifecycle.job import Intent, JobState
from dstack.domain.reasons import Reason


class RunState(StrEnum):
    PLANNING = "planning"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


TERMINAL = frozenset({RunState.DONE, RunState.FAILED, RunState.STOPPED})


@dataclass(frozen=True, slots=True)
class Run:
    state: RunState
    intent: Intent = Intent.NONE
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """The provider's jobs are stored."""


@dataclass(frozen=True, slots=True)
class PlanFailed:
    timeout: bool = False


@dataclass(frozen=True, slots=True)
class StopAsked:
    abort: bool = False


@dataclass(frozen=True, slots=True)
class RollUp:
    """Which states the run's jobs are in now."""

    states: frozenset[JobState]


RunEvent = Planned | PlanFailed | StopAsked | RollUp


def decide(run: Run, event: RunEvent, now: int) -> Decision[Run]:
    if isinstance(event, StopAsked):
        return _stop(run, event)
    if run.state in TERMINAL:
        return Ignored("already finished")
    if isinstance(event, Planned):
        if run.state is not RunState.PLANNING:
            return Ignored("planned before")
        return Transition(replace(run, state=RunState.QUEUED))
    if isinstance(event, PlanFailed):
        if run.state is not RunState.PLANNING:
            return Refused(f"the run was planned before: it is {run.state}")
        reason = Reason.PLAN_TIMEOUT if event.timeout else Reason.INVALID
        return Transition(replace(run, state=RunState.FAILED, reason=reason))
    if run.state is RunState.PLANNING:
        return Ignored("the run is still being planned")
    state = roll_up(event.states)
    if state is run.state or (state is RunState.QUEUED and run.state is RunState.RUNNING):
        return Ignored("nothing changes")
    return Transition(replace(run, state=state))


def roll_up(states: frozenset[JobState]) -> RunState:
    """No job past queued → queued; all terminal → failed > stopped > done; else running. Skipped is neutral.

    A step's `continue-on-failure` changes nothing here: it lets the rest of the run go on, and a run in which a job
    failed has failed all the same.
    """
    if not states & _OPEN:
        if JobState.FAILED in states:
            return RunState.FAILED
        return RunState.STOPPED if JobState.STOPPED in states else RunState.DONE
    return RunState.QUEUED if states - {JobState.SKIPPED} <= _NOT_BEGUN else RunState.RUNNING


def _stop(run: Run, event: StopAsked) -> Decision[Run]:
    if run.state in TERMINAL:
        return Ignored("already finished")
    intent = Intent.ABORT if event.abort or run.intent is Intent.ABORT else Intent.STOP
    if run.state is RunState.PLANNING:
        reason = Reason.ABORTED if intent is Intent.ABORT else Reason.STOPPED
        return Transition(replace(run, state=RunState.STOPPED, intent=intent, reason=reason))
    if run.intent is intent:
        return Ignored(f"{intent} was asked already")
    return Transition(replace(run, intent=intent))


_NOT_BEGUN = frozenset({JobState.WAITING, JobState.QUEUED})
_OPEN = _NOT_BEGUN | {JobState.ASSIGNED, JobState.STARTING, JobState.RUNNING, JobState.SAVING}
