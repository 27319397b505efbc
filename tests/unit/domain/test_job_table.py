"""Every (situation, event, attempt, intent) of the job's table against results written down here by hand.

The source of the cells is the design's table of states; `rendering.render` names every field that changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product

import pytest

from dstack.domain.lifecycle import job as table
from dstack.domain.lifecycle.job import Intent, Job, JobEvent, JobState, Policy
from dstack.domain.reasons import Reason
from tests.unit.domain.rendering import NOW, render

SITUATIONS: dict[str, Job] = {
    "waiting": Job(JobState.WAITING),
    "fresh": Job(JobState.QUEUED),
    "again": Job(JobState.QUEUED, attempt=2, counted=1, not_before=NOW),
    "backing-off": Job(JobState.QUEUED, attempt=2, counted=1, not_before=NOW + 1),
    "assigned": Job(JobState.ASSIGNED, attempt=2, counted=1),
    "starting": Job(JobState.STARTING, attempt=2, counted=1),
    "running": Job(JobState.RUNNING, attempt=2, counted=2),
    "overtime": Job(JobState.RUNNING, attempt=2, counted=2, outcome=Reason.TIMEOUT),
    "saving-0": Job(JobState.SAVING, attempt=2, counted=2, outcome=Reason.EXIT_ZERO, exit_code=0),
    "saving-1": Job(JobState.SAVING, attempt=2, counted=2, outcome=Reason.EXIT_CODE, exit_code=1),
    "saving-stopped": Job(JobState.SAVING, attempt=2, counted=2, outcome=Reason.STOPPED, exit_code=143),
    "done": Job(JobState.DONE, attempt=2, counted=2, outcome=Reason.EXIT_ZERO, exit_code=0, reason=Reason.EXIT_ZERO),
    "reused": Job(JobState.DONE, reason=Reason.REUSED),
    "uploaded": Job(JobState.DONE, reason=Reason.UPLOADED),
    "failed": Job(JobState.FAILED, attempt=2, counted=2, reason=Reason.EXIT_CODE, exit_code=1),
    "stopped": Job(JobState.STOPPED, attempt=2, counted=2, reason=Reason.STOPPED),
    "skipped": Job(JobState.SKIPPED, reason=Reason.DEPENDENCY),
}
NOT_BEGUN = ("waiting", "fresh", "again", "backing-off")
SAVING = ("saving-0", "saving-1", "saving-stopped")
ENDED = ("done", "reused", "uploaded", "failed", "stopped", "skipped")

PLAIN_EVENTS: dict[str, JobEvent] = {
    "rule true": table.RuleTrue(),
    "rule false": table.RuleFalse(),
    "condition false": table.RuleFalse(condition=True),
    "stop": table.StopAsked(),
    "abort": table.StopAsked(abort=True),
    "placed": table.Placed(),
    "unsatisfiable": table.Unsatisfiable(),
}
ATTEMPT_EVENTS: dict[str, Callable[[int], table.AttemptEvent]] = {
    "accepted": table.Accepted,
    "rejected": table.Rejected,
    "returned": table.Returned,
    "recalled": lambda number: table.Returned(number, recalled=True),
    "started": table.Started,
    "setup failed": table.SetupFailed,
    "setup timeout": lambda number: table.SetupFailed(number, timeout=True),
    "time limit": table.TimeLimit,
    "exited 0": lambda number: table.Exited(number, 0),
    "exited 0 oom": lambda number: table.Exited(number, 0, oom=True),
    "exited 1": lambda number: table.Exited(number, 1),
    "exited 137": lambda number: table.Exited(number, 137),
    "exited 137 oom": lambda number: table.Exited(number, 137, oom=True),
    "gone": lambda number: table.Exited(number, None),
    "exited 143 aborted": lambda number: table.Exited(number, 143, aborted=True),
    "saved": table.Saved,
    "saved after 0": lambda number: table.Saved(number, table.Exited(number, 0)),
    "saved after 1": lambda number: table.Saved(number, table.Exited(number, 1)),
    "save failed": table.SaveFailed,
    "save failed after 0": lambda number: table.SaveFailed(number, table.Exited(number, 0)),
    "save failed after 1": lambda number: table.SaveFailed(number, table.Exited(number, 1)),
    "lost": table.Lost,
    "preempted": lambda number: table.Lost(number, preempted=True),
}

Cell = str | tuple[str, str, str]
"""The result for every intent, or for none, stop, abort. `-` marks what `test_reachable` proves impossible."""

BY_STOP = "stopped reason=stopped | partial, end 2 stopped"
BY_ABORT = "stopped reason=aborted | partial, end 2 aborted"


def or_stopped(otherwise: str) -> Cell:
    """Before the process runs, what ends or moves the attempt ends the job when stop or abort was asked."""
    return (otherwise, BY_STOP, BY_ABORT)


def exit_cells(code: int | None, outcome: str) -> dict[str, Cell]:
    """An exit fixes the outcome: stop asked before it, else time limit, else the exit code."""
    told = "" if code is None else f" exit_code={code}"
    aborted = f"stopped{told} reason=aborted | partial, end 2 aborted"
    implied = or_stopped(f"saving counted=2 outcome={outcome}{told}")
    return {
        "assigned": implied,
        "starting": implied,
        "running": (f"saving outcome={outcome}{told}", f"saving outcome=stopped{told}", aborted),
        "overtime": (f"saving{told}", f"saving outcome=stopped{told}", aborted),
        **dict.fromkeys(SAVING, "ignored"),
    }


UNSAFE = " artifacts_incomplete=True"


def told_cells(told: str, outcome: str, end: str, by_itself: str, mark: str = "") -> dict[str, Cell]:
    """A save's end that also tells the exit. `by_itself`: the reason, then what precedes `end`, without stop or
    time limit."""
    reason, _, partial = by_itself.partition(" | ")
    ending = f"{told} reason={reason}{mark} | {partial}end 2 {reason}"
    stopped = f"stopped outcome=stopped {told} reason=stopped{mark} | partial, end 2 stopped"
    aborted = f"stopped {told} reason=aborted | partial, end 2 aborted"
    implied = or_stopped(f"{end} counted=2 outcome={outcome} {ending}")
    return {
        "assigned": implied,
        "starting": implied,
        "running": (f"{end} outcome={outcome} {ending}", stopped, aborted),
        "overtime": (f"failed {told} reason=timeout{mark} | partial, end 2 timeout", stopped, aborted),
    }


def lost_cells(reason: str) -> dict[str, Cell]:
    failed = or_stopped(f"failed reason={reason} | partial, end 2 {reason}")
    unstarted = or_stopped(f"failed unstarted=1 reason={reason} | partial, end 2 {reason}")
    overtime = or_stopped("failed reason=timeout | partial, end 2 timeout")
    return {"assigned": or_stopped("queued unstarted=1 | end 2 returned"), "starting": unstarted, "running": failed,
            "overtime": overtime, **UNSAVED}  # fmt: skip


SAVED: dict[str, Cell] = {
    "saving-0": "done reason=exit-zero | end 2 exit-zero",
    "saving-1": "failed reason=exit-code | partial, end 2 exit-code",
    "saving-stopped": "stopped reason=stopped | partial, end 2 stopped",
}
UNSAVED: dict[str, Cell] = {
    "saving-0": "failed reason=artifact-save artifacts_incomplete=True | partial, end 2 artifact-save",
    "saving-1": "failed reason=exit-code artifacts_incomplete=True | partial, end 2 exit-code",
    "saving-stopped": "stopped reason=stopped artifacts_incomplete=True | partial, end 2 stopped",
}
UNTOLD: dict[str, Cell] = dict.fromkeys(("assigned", "starting", "running", "overtime"), "refused")
ACCEPTED_BEFORE: dict[str, Cell] = dict.fromkeys(("starting", "running", "overtime", *SAVING), "refused")
STARTED_BEFORE: dict[str, Cell] = dict.fromkeys(("running", "overtime", *SAVING), "ignored")
SETUP_OVER: dict[str, Cell] = dict.fromkeys(("running", "overtime", *SAVING), "refused")


def stop_cells(word: str, after_stop: str, *, again: bool) -> dict[str, Cell]:
    """`again`: whether asking goes beyond a stop asked before."""

    def cell(state: str, effect: str) -> Cell:
        change = f"{state} intent={word}{effect}"
        return (change, change if again else "ignored", "ignored")

    ended = (f"stopped intent={word} reason={after_stop}", "-", "-")
    return {
        **dict.fromkeys(NOT_BEGUN, ended),
        "assigned": cell("assigned", " | recall"),
        **{name: cell(state, f" | signal {word}") for name, state in
           (("starting", "starting"), ("running", "running"), ("overtime", "running"))},
        **dict.fromkeys(SAVING, cell("saving", " | signal abort" if again else "")),
    }  # fmt: skip


LIVE = ("assigned", "starting", "running", "overtime", *SAVING)
NOT_QUEUED: dict[str, Cell] = {"waiting": "ignored", **dict.fromkeys(LIVE, "ignored")}

GRID: dict[str, dict[str, Cell]] = {
    "rule true": {"waiting": "queued", **dict.fromkeys((*NOT_BEGUN[1:], *LIVE), "ignored")},
    "rule false": {"waiting": "skipped reason=dependency", **dict.fromkeys((*NOT_BEGUN[1:], *LIVE), "refused")},
    "condition false": {"waiting": "skipped reason=condition", **dict.fromkeys((*NOT_BEGUN[1:], *LIVE), "refused")},
    "stop": stop_cells("stop", "stopped", again=False),
    "abort": stop_cells("abort", "aborted", again=True),
    "placed": {
        **NOT_QUEUED,
        "fresh": "assigned attempt=1 | begin 1",
        "again": "assigned attempt=3 not_before=None | begin 3",
        "backing-off": "ignored",
    },
    "unsatisfiable": {**NOT_QUEUED, **dict.fromkeys(NOT_BEGUN[1:], "failed reason=no-capacity")},
    "accepted": {"assigned": or_stopped("starting"), **dict.fromkeys(LIVE[1:], "ignored")},
    "rejected": {"assigned": or_stopped("queued rejections=1 not_before=+1s | end 2 rejected"), **ACCEPTED_BEFORE},
    "returned": {"assigned": or_stopped("queued unstarted=1 | end 2 returned"), **ACCEPTED_BEFORE},
    "recalled": {"assigned": or_stopped("queued | end 2 returned"), **ACCEPTED_BEFORE},
    "started": {**dict.fromkeys(("assigned", "starting"), or_stopped("running counted=2")), **STARTED_BEFORE},
    "setup failed": {
        **dict.fromkeys(
            ("assigned", "starting"), or_stopped("failed reason=setup-failed | partial, end 2 setup-failed")
        ),
        **SETUP_OVER,
    },
    "setup timeout": {
        **dict.fromkeys(
            ("assigned", "starting"), or_stopped("failed reason=setup-timeout | partial, end 2 setup-timeout")
        ),
        **SETUP_OVER,
    },
    "time limit": {
        **dict.fromkeys(LIVE, "ignored"),
        "running": ("running outcome=timeout | signal stop", "ignored", "ignored"),
    },
    "exited 0": exit_cells(0, "exit-zero"),
    "exited 0 oom": exit_cells(0, "exit-zero"),
    "exited 1": exit_cells(1, "exit-code"),
    "exited 137": exit_cells(137, "signal"),
    "exited 137 oom": exit_cells(137, "oom"),
    "gone": exit_cells(None, "unknown-exit"),
    "exited 143 aborted": {
        **dict.fromkeys(
            ("assigned", "starting"),
            or_stopped("stopped counted=2 exit_code=143 reason=aborted | partial, end 2 aborted"),
        ),
        **dict.fromkeys(("running", "overtime"), "stopped exit_code=143 reason=aborted | partial, end 2 aborted"),
        **dict.fromkeys(SAVING, "ignored"),
    },
    "saved": {**UNTOLD, **SAVED},
    "saved after 0": told_cells("exit_code=0", "exit-zero", "done", "exit-zero | ") | SAVED,
    "saved after 1": told_cells("exit_code=1", "exit-code", "failed", "exit-code | partial, ") | SAVED,
    "save failed": {**UNTOLD, **UNSAVED},
    "save failed after 0": told_cells("exit_code=0", "exit-zero", "failed", "artifact-save | partial, ", UNSAFE)
    | UNSAVED,
    "save failed after 1": told_cells("exit_code=1", "exit-code", "failed", "exit-code | partial, ", UNSAFE) | UNSAVED,
    "lost": lost_cells("runner-lost"),
    "preempted": lost_cells("preempted"),
}
"""With the default policy: nothing is retried."""

EVERYTHING = Policy(retry_on=frozenset(Reason), retry_max=2)
RETRIED: dict[tuple[str, str], str] = {
    ("saved", "saving-1"): "queued outcome=None not_before=+2s | partial, end 2 exit-code",
    ("saved after 0", "saving-1"): "queued outcome=None not_before=+2s | partial, end 2 exit-code",
    ("saved after 1", "saving-1"): "queued outcome=None not_before=+2s | partial, end 2 exit-code",
    ("saved after 0", "overtime"): "queued outcome=None exit_code=0 not_before=+2s | partial, end 2 timeout",
    ("saved after 1", "overtime"): "queued outcome=None exit_code=1 not_before=+2s | partial, end 2 timeout",
    ("saved after 1", "assigned"): "queued counted=2 exit_code=1 not_before=+2s | partial, end 2 exit-code",
    ("saved after 1", "starting"): "queued counted=2 exit_code=1 not_before=+2s | partial, end 2 exit-code",
    ("saved after 1", "running"): "queued exit_code=1 not_before=+2s | partial, end 2 exit-code",
    ("lost", "starting"): "queued unstarted=1 not_before=+1s | partial, end 2 runner-lost",
    ("lost", "running"): "queued not_before=+2s | partial, end 2 runner-lost",
    ("lost", "overtime"): "queued outcome=None not_before=+2s | partial, end 2 timeout",
    ("preempted", "starting"): "queued unstarted=1 not_before=+1s | partial, end 2 preempted",
    ("preempted", "running"): "queued not_before=+2s | partial, end 2 preempted",
    ("preempted", "overtime"): "queued outcome=None not_before=+2s | partial, end 2 timeout",
}
"""What a policy that covers every reason changes, and only with no stop asked: set-up, a failed save and success
are never retried."""


def expected(event: str, situation: str, intent: Intent, policy: Policy) -> str:
    if situation in ENDED:
        return "late" if event in ATTEMPT_EVENTS else "ignored"
    if situation in NOT_BEGUN and event in ATTEMPT_EVENTS:
        return "late"
    if policy is EVERYTHING and intent is Intent.NONE and (event, situation) in RETRIED:
        return RETRIED[event, situation]
    cell = GRID[event][situation]
    return cell if isinstance(cell, str) else cell[list(Intent).index(intent)]


def jobs() -> Iterator[tuple[str, Job]]:
    for (situation, job), intent, policy in product(SITUATIONS.items(), Intent, (Policy(), EVERYTHING)):
        if intent is not Intent.NONE and situation in (*NOT_BEGUN, "reused", "uploaded", "skipped"):
            continue  # test_reachable: a stop ends these at once
        if intent is Intent.NONE and situation == "saving-stopped":
            continue
        yield situation, replace(job, intent=intent, policy=EVERYTHING if policy.retry_on else policy)


@pytest.mark.parametrize("event", PLAIN_EVENTS)
def test_events_without_an_attempt(event: str) -> None:
    for situation, job in jobs():
        decision = table.decide(job, PLAIN_EVENTS[event], NOW)
        assert render(job, decision) == expected(event, situation, job.intent, job.policy), (situation, job.intent)


@pytest.mark.parametrize("event", ATTEMPT_EVENTS)
def test_events_of_the_current_attempt(event: str) -> None:
    for situation, job in jobs():
        if job.attempt:
            decision = table.decide(job, ATTEMPT_EVENTS[event](job.attempt), NOW)
            assert render(job, decision) == expected(event, situation, job.intent, job.policy), (situation, job.intent)


@pytest.mark.parametrize("event", ATTEMPT_EVENTS)
def test_events_of_an_older_attempt_are_late(event: str) -> None:
    for situation, job in jobs():
        if job.attempt:
            assert render(job, table.decide(job, ATTEMPT_EVENTS[event](job.attempt - 1), NOW)) == "late", situation


@pytest.mark.parametrize("event", ATTEMPT_EVENTS)
def test_events_of_an_unknown_attempt_are_refused(event: str) -> None:
    for situation, job in jobs():
        for number in (-1, 0, job.attempt + 1, job.attempt + 7):
            assert render(job, table.decide(job, ATTEMPT_EVENTS[event](number), NOW)) == "refused", situation


def test_the_grid_names_every_event_and_situation() -> None:
    assert GRID.keys() == {*PLAIN_EVENTS, *ATTEMPT_EVENTS}
    alive = set(SITUATIONS) - set(ENDED)
    for event, row in GRID.items():
        assert row.keys() == (alive - set(NOT_BEGUN) if event in ATTEMPT_EVENTS else alive), event
    made = {type(event) for event in PLAIN_EVENTS.values()} | {type(make(1)) for make in ATTEMPT_EVENTS.values()}
    assert made == set(JobEvent.__args__), "every event class has a row"
    assert {job.state for job in SITUATIONS.values()} == set(JobState)


@pytest.mark.parametrize(
    ("outcome", "end", "again"),
    [
        (Reason.EXIT_ZERO, "done", False),
        (Reason.EXIT_CODE, "failed", True),
        (Reason.SIGNAL, "failed", True),
        (Reason.OOM, "failed", True),
        (Reason.TIMEOUT, "failed", True),
        (Reason.UNKNOWN_EXIT, "failed", True),
        (Reason.STOPPED, "stopped", False),
    ],
)
def test_the_end_of_a_save_by_outcome(outcome: Reason, end: str, again: bool) -> None:
    saving = Job(JobState.SAVING, attempt=1, counted=1, outcome=outcome)
    covered = replace(saving, policy=EVERYTHING)
    for job, state in ((saving, end), (covered, "queued" if again else end)):
        decision = table.decide(job, table.Saved(1), NOW)
        assert render(job, decision).split()[0] == state
    for intent in (Intent.STOP, Intent.ABORT):
        decision = table.decide(replace(covered, intent=intent), table.Saved(1), NOW)
        assert render(covered, decision).split()[0] == end, "a stop while saving forbids the retry and no more"


def test_created() -> None:
    assert table.created(unmet=True) == Job(JobState.WAITING)
    assert table.created(unmet=False) == Job(JobState.QUEUED)
    assert table.created(unmet=False, reused=True) == Job(JobState.DONE, reason=Reason.REUSED)
    assert table.uploaded() == Job(JobState.DONE, reason=Reason.UPLOADED)
    assert table.created(unmet=True, skipped=Reason.CONDITION) == Job(JobState.SKIPPED, reason=Reason.CONDITION)
