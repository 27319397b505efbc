"""Every (state, event, intent) of the run's table, and the roll-up over every set of job states."""

from __future__ import annotations

from itertools import combinations

import pytest

from dstack.domain.lifecycle import run as table
from dstack.domain.lifecycle.job import Intent, JobState
from dstack.domain.lifecycle.run import Run, RunEvent, RunState
from tests.unit.domain.rendering import NOW, render


def rolled(*states: str) -> table.RollUp:
    return table.RollUp(frozenset(map(JobState, states)))


EVENTS: dict[str, RunEvent] = {
    "planned": table.Planned(),
    "plan failed": table.PlanFailed(),
    "plan timeout": table.PlanFailed(timeout=True),
    "stop": table.StopAsked(),
    "abort": table.StopAsked(abort=True),
    "all queued": rolled("waiting", "queued"),
    "one skipped": rolled("queued", "skipped"),
    "one begun": rolled("waiting", "assigned"),
    "all done": rolled("done", "skipped"),
    "one failed": rolled("done", "failed", "stopped"),
    "one stopped": rolled("done", "stopped"),
}

Cell = str | tuple[str, str, str]
"""The result for every intent, or for none, stop, abort. While planning there is no intent: a stop ends it."""

GRID: dict[str, dict[str, Cell]] = {
    "planned": {"planning": "queued", "queued": "ignored", "running": "ignored"},
    "plan failed": {"planning": "failed reason=invalid", "queued": "refused", "running": "refused"},
    "plan timeout": {"planning": "failed reason=plan-timeout", "queued": "refused", "running": "refused"},
    "stop": {
        "planning": "stopped intent=stop reason=stopped",
        "queued": ("queued intent=stop", "ignored", "ignored"),
        "running": ("running intent=stop", "ignored", "ignored"),
    },
    "abort": {
        "planning": "stopped intent=abort reason=aborted",
        "queued": ("queued intent=abort", "queued intent=abort", "ignored"),
        "running": ("running intent=abort", "running intent=abort", "ignored"),
    },
    # A run that has begun is not shown as queued again while a job of it waits for its next attempt.
    "all queued": {"planning": "ignored", "queued": "ignored", "running": "ignored"},
    "one skipped": {"planning": "ignored", "queued": "ignored", "running": "ignored"},
    "one begun": {"planning": "ignored", "queued": "running", "running": "ignored"},
    "all done": {"planning": "ignored", "queued": "done", "running": "done"},
    "one failed": {"planning": "ignored", "queued": "failed", "running": "failed"},
    "one stopped": {"planning": "ignored", "queued": "stopped", "running": "stopped"},
}


def test_the_grid_names_every_event_and_open_state() -> None:
    assert GRID.keys() == EVENTS.keys()
    for row in GRID.values():
        assert row.keys() == set(RunState) - table.TERMINAL
    assert {type(event) for event in EVENTS.values()} == set(RunEvent.__args__)


@pytest.mark.parametrize("intent", Intent)
@pytest.mark.parametrize("state", RunState)
@pytest.mark.parametrize("event", EVENTS)
def test_the_grid(event: str, state: RunState, intent: Intent) -> None:
    if state is RunState.PLANNING and intent is not Intent.NONE:
        # It cannot be: a stop while planning ends the run at once.
        before = Run(RunState.PLANNING)
        decision = table.decide(before, table.StopAsked(abort=intent is Intent.ABORT), NOW)
        assert render(before, decision).startswith("stopped ")
        return
    before = Run(state, intent)
    cell = "ignored" if state in table.TERMINAL else GRID[event][state]
    expected = cell if isinstance(cell, str) else cell[list(Intent).index(intent)]
    assert render(before, table.decide(before, EVENTS[event], NOW)) == expected


def test_the_answer_to_a_stop_after_the_end() -> None:
    for state in table.TERMINAL:
        decision = table.decide(Run(state), table.StopAsked(), NOW)
        assert isinstance(decision, table.Ignored)
        assert decision.why == "already finished"


@pytest.mark.parametrize("size", range(len(JobState) + 1))
def test_roll_up(size: int) -> None:
    """No job past queued: queued; all terminal: failed before stopped before done, skipped neutral; else running."""
    for states in map(set[str], combinations(JobState, size)):
        if states & {"assigned", "starting", "running", "saving"}:
            expected = "running"
        elif states & {"waiting", "queued"}:
            expected = "running" if states & {"done", "failed", "stopped"} else "queued"
        elif "failed" in states:
            expected = "failed"
        elif "stopped" in states:
            expected = "stopped"
        else:
            expected = "done"
        assert table.roll_up(frozenset(map(JobState, states))) == expected, states
