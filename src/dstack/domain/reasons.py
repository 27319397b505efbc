"""Why something ended: one enum with total maps. A reason is set by whoever saw it first.

`END_STATE` reason → the end state of the job; `MAY_RETRY` → whether a policy may retry it; `SENTENCE` → words
for people; `CLI_EXIT` → what `dstack run` exits with (None: the job's own exit code).
"""

from __future__ import annotations

import signal as _signal
from enum import StrEnum


class Reason(StrEnum):
    EXIT_ZERO = "exit-zero"
    REUSED = "reused"
    UPLOADED = "uploaded"
    EXIT_CODE = "exit-code"
    SIGNAL = "signal"
    OOM = "oom"
    TIMEOUT = "timeout"
    UNKNOWN_EXIT = "unknown-exit"
    SETUP_FAILED = "setup-failed"
    SETUP_TIMEOUT = "setup-timeout"
    NO_CAPACITY = "no-capacity"
    RUNNER_REJECTED = "runner-rejected"
    RUNNER_LOST = "runner-lost"
    PREEMPTED = "preempted"
    ARTIFACT_SAVE = "artifact-save"
    STOPPED = "stopped"
    ABORTED = "aborted"
    DEPENDENCY = "dependency"
    CONDITION = "condition"
    INVALID = "invalid"
    PLAN_TIMEOUT = "plan-timeout"


END_STATE: dict[Reason, str] = {
    Reason.EXIT_ZERO: "done",
    Reason.REUSED: "done",
    Reason.UPLOADED: "done",
    Reason.STOPPED: "stopped",
    Reason.ABORTED: "stopped",
    Reason.DEPENDENCY: "skipped",
    Reason.CONDITION: "skipped",
    **dict.fromkeys(
        (
            Reason.EXIT_CODE,
            Reason.SIGNAL,
            Reason.OOM,
            Reason.TIMEOUT,
            Reason.UNKNOWN_EXIT,
            Reason.SETUP_FAILED,
            Reason.SETUP_TIMEOUT,
            Reason.NO_CAPACITY,
            Reason.RUNNER_REJECTED,
            Reason.RUNNER_LOST,
            Reason.PREEMPTED,
            Reason.ARTIFACT_SAVE,
            Reason.INVALID,
            Reason.PLAN_TIMEOUT,
        ),
        "failed",
    ),
}

_RETRYABLE = {
    Reason.EXIT_CODE,
    Reason.SIGNAL,
    Reason.OOM,
    Reason.TIMEOUT,
    Reason.UNKNOWN_EXIT,
    Reason.RUNNER_LOST,
    Reason.PREEMPTED,
}
MAY_RETRY: dict[Reason, bool] = {reason: reason in _RETRYABLE for reason in Reason}
"""Set-up and configuration errors never retry, success never, and a stop never."""

SENTENCE: dict[Reason, str] = {
    Reason.EXIT_ZERO: "finished",
    Reason.REUSED: "reused from an earlier run",
    Reason.UPLOADED: "uploaded",
    Reason.EXIT_CODE: "exited with code {exit_code}",
    Reason.SIGNAL: "ended by {signal}",
    Reason.OOM: "killed because the machine or its memory limit ran out of memory",
    Reason.TIMEOUT: "reached its time limit",
    Reason.UNKNOWN_EXIT: "is gone without leaving an exit status (its wrapper was killed, or the machine restarted)",
    Reason.SETUP_FAILED: "could not be set up",
    Reason.SETUP_TIMEOUT: "was not set up in time",
    Reason.NO_CAPACITY: "fits no runner that there is",
    Reason.RUNNER_REJECTED: "was rejected by every runner that it was given to",
    Reason.RUNNER_LOST: "was lost with its runner",
    Reason.PREEMPTED: "was lost: its machine was taken away",
    Reason.ARTIFACT_SAVE: "finished, but its artifacts could not be saved",
    Reason.STOPPED: "stopped by {actor}",
    Reason.ABORTED: "aborted by {actor}; nothing more was saved",
    Reason.DEPENDENCY: "skipped because a workflow it depends on did not succeed",
    Reason.CONDITION: "skipped because its condition is false",
    Reason.INVALID: "could not be planned",
    Reason.PLAN_TIMEOUT: "was not planned in time",
}

CLI_EXIT: dict[Reason, int | None] = {
    Reason.EXIT_ZERO: 0,
    Reason.REUSED: 0,
    Reason.UPLOADED: 0,
    Reason.EXIT_CODE: None,
    Reason.SIGNAL: None,
    Reason.OOM: None,
    Reason.TIMEOUT: 124,
    Reason.UNKNOWN_EXIT: 125,
    Reason.SETUP_FAILED: 119,
    Reason.SETUP_TIMEOUT: 119,
    Reason.NO_CAPACITY: 120,
    Reason.RUNNER_REJECTED: 120,
    Reason.RUNNER_LOST: 120,
    Reason.PREEMPTED: 120,
    Reason.ARTIFACT_SAVE: 121,
    Reason.STOPPED: 122,
    Reason.ABORTED: 122,
    Reason.DEPENDENCY: 1,
    Reason.CONDITION: 1,
    Reason.INVALID: 2,
    Reason.PLAN_TIMEOUT: 2,
}


def cli_exit(reason: Reason, exit_code: int | None) -> int:
    """What the CLI exits with for a root-cause job: the job's own code where it has one, else by reason."""
    mapped = CLI_EXIT[reason]
    if mapped is not None:
        return mapped
    return exit_code if exit_code is not None else 125


def of_exit(exit_code: int | None, oom: bool) -> Reason:
    """The reason that an exit status gives by itself; `exit_code` is the shell's (128+n for signal n)."""
    if exit_code is None:
        return Reason.UNKNOWN_EXIT
    if exit_code == 0:
        # Out-of-memory kills of children that the program coped with do not make it a failure.
        return Reason.EXIT_ZERO
    if oom:
        return Reason.OOM
    return Reason.SIGNAL if is_signal(exit_code) else Reason.EXIT_CODE


def is_signal(exit_code: int) -> bool:
    """Whether a shell's exit status may stand for a signal."""
    return exit_code > 128 and exit_code - 128 in {item.value for item in _signal.Signals}


def sentence(
    reason: Reason, *, exit_code: int | None = None, actor: str | None = None, detail: str | None = None
) -> str:
    """`reason` in words; `detail` (what the observer saw) follows a colon."""
    told = ""
    if exit_code is not None and is_signal(exit_code):
        number = exit_code - 128
        told = f"signal {number} ({_signal.Signals(number).name}) or exit code {exit_code}"
    text = SENTENCE[reason].format(exit_code=exit_code, signal=told or "a signal", actor=actor or "someone")
    return f"{text}: {detail}" if detail else text
