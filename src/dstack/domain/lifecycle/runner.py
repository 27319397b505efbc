"""The runner's table. States: online lost offline; draining is a column, not a state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from uuid import UUID

from dstack.domain.lifecycle import Decision, Ignored, Refused, Transition


class RunnerState(StrEnum):
    ONLINE = "online"
    LOST = "lost"
    OFFLINE = "offline"


@dataclass(frozen=True, slots=True)
class Runner:
    state: RunnerState
    incarnation: UUID


@dataclass(frozen=True, slots=True)
class Registered:
    """A process started for this runner; a new incarnation adopts by runner id."""

    incarnation: UUID


@dataclass(frozen=True, slots=True)
class Heartbeat:
    incarnation: UUID


@dataclass(frozen=True, slots=True)
class LeaseExpired:
    """No heartbeat for a lease. `holds` says whether attempts are still placed on it."""

    holds: bool


@dataclass(frozen=True, slots=True)
class NothingLeft:
    """The last attempt of a lost runner ended."""


@dataclass(frozen=True, slots=True)
class Goodbye:
    incarnation: UUID


RunnerEvent = Registered | Heartbeat | LeaseExpired | NothingLeft | Goodbye


def decide(runner: Runner, event: RunnerEvent, now: int) -> Decision[Runner]:
    if isinstance(event, Registered):
        return Transition(Runner(RunnerState.ONLINE, event.incarnation))
    if isinstance(event, LeaseExpired):
        if runner.state is not RunnerState.ONLINE:
            return Ignored(f"the runner is {runner.state} already")
        return Transition(replace(runner, state=RunnerState.LOST if event.holds else RunnerState.OFFLINE))
    if isinstance(event, NothingLeft):
        if runner.state is not RunnerState.LOST:
            return Ignored(f"the runner is {runner.state}, not lost")
        return Transition(replace(runner, state=RunnerState.OFFLINE))
    if event.incarnation != runner.incarnation:
        return Refused("another process has registered for this runner since; register again")
    if isinstance(event, Goodbye):
        if runner.state is RunnerState.OFFLINE:
            return Ignored("the runner is offline already")
        return Transition(replace(runner, state=RunnerState.OFFLINE))
    if runner.state is RunnerState.OFFLINE:
        return Refused("the runner said goodbye or was lost; register again")
    return Transition(replace(runner, state=RunnerState.ONLINE))
