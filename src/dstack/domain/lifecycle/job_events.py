"""What can happen to a job. `attempt` names the attempt that an event speaks of: the fence."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RuleTrue:
    """The step's rule over its dependencies became true."""


@dataclass(frozen=True, slots=True)
class RuleFalse:
    """The step's rule became false: what it depends on did not succeed, or (`condition`) its own `if:` says so."""

    condition: bool = False


@dataclass(frozen=True, slots=True)
class StopAsked:
    abort: bool = False


@dataclass(frozen=True, slots=True)
class Placed:
    """The placer chose a runner that fits."""


@dataclass(frozen=True, slots=True)
class Unsatisfiable:
    """No runner could ever run it for `unsatisfiable_after`, or the user's own queue limit passed."""


@dataclass(frozen=True, slots=True)
class Accepted:
    attempt: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """The runner cannot take it; that runner is excluded by the caller."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Returned:
    """Not begun, and not known to the runner's new incarnation, or silent for too long; or given back as asked."""

    attempt: int
    recalled: bool = False
    """The server had asked for it: nothing was lost."""


@dataclass(frozen=True, slots=True)
class Started:
    attempt: int


@dataclass(frozen=True, slots=True)
class SetupFailed:
    attempt: int
    timeout: bool = False


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """The attempt ran for as long as the workflow allows."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Exited:
    """The process ended. `exit_code` is the shell's (128+n for a signal); None: gone without an exit file."""

    attempt: int
    exit_code: int | None
    oom: bool = False
    aborted: bool = False


@dataclass(frozen=True, slots=True)
class Saved:
    """Artifacts and log are safe. `exit` repeats the exit, so that this message alone tells the whole story."""

    attempt: int
    exit: Exited | None = None


@dataclass(frozen=True, slots=True)
class SaveFailed:
    """The save deadline passed or the store refused; `exit` as in `Saved`."""

    attempt: int
    exit: Exited | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """The runner is lost for good, or (`preempted`) its machine was taken away."""

    attempt: int
    preempted: bool = False


AttemptEvent = Accepted | Rejected | Returned | Started | SetupFailed | TimeLimit | Exited | Saved | SaveFailed | Lost
JobEvent = RuleTrue | RuleFalse | StopAsked | Placed | Unsatisfiable | AttemptEvent
