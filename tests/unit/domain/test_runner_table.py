"""Every (state, event, incarnation) of the runner's table."""

from __future__ import annotations

from uuid import UUID

import pytest

from dstack.domain.lifecycle import Transition
from dstack.domain.lifecycle import runner as table
from dstack.domain.lifecycle.runner import Runner, RunnerEvent, RunnerState
from tests.unit.domain.rendering import NOW, render

MINE, OTHER = UUID(int=1), UUID(int=2)

ADOPTED = f"online incarnation={OTHER}"

EVENTS: dict[str, RunnerEvent] = {
    "registered": table.Registered(MINE),
    "registered anew": table.Registered(OTHER),
    "heartbeat": table.Heartbeat(MINE),
    "heartbeat of another": table.Heartbeat(OTHER),
    "lease expired": table.LeaseExpired(holds=True),
    "lease expired, idle": table.LeaseExpired(holds=False),
    "nothing left": table.NothingLeft(),
    "goodbye": table.Goodbye(MINE),
    "goodbye of another": table.Goodbye(OTHER),
}

GRID: dict[str, tuple[str, str, str]] = {
    #                      online     lost       offline
    "registered": ("online", "online", "online"),
    "registered anew": (ADOPTED, ADOPTED, ADOPTED),
    "heartbeat": ("online", "online", "refused"),
    "heartbeat of another": ("refused", "refused", "refused"),
    "lease expired": ("lost", "ignored", "ignored"),
    "lease expired, idle": ("offline", "ignored", "ignored"),
    "nothing left": ("ignored", "offline", "ignored"),
    "goodbye": ("offline", "offline", "ignored"),
    "goodbye of another": ("refused", "refused", "refused"),
}


def test_the_grid_names_every_event() -> None:
    assert GRID.keys() == EVENTS.keys()
    assert {type(event) for event in EVENTS.values()} == set(RunnerEvent.__args__)


@pytest.mark.parametrize("state", RunnerState)
@pytest.mark.parametrize("event", EVENTS)
def test_the_grid(event: str, state: RunnerState) -> None:
    before = Runner(state, MINE)
    assert render(before, table.decide(before, EVENTS[event], NOW)) == GRID[event][list(RunnerState).index(state)]


@pytest.mark.parametrize("state", RunnerState)
def test_a_refused_process_gets_in_by_registering(state: RunnerState) -> None:
    """No state is a dead end for a living agent: what is refused says so, and registering is never refused."""
    runner = Runner(state, MINE)
    for incarnation in (MINE, OTHER):
        registered = table.decide(runner, table.Registered(incarnation), NOW)
        assert isinstance(registered, Transition)
        assert isinstance(table.decide(registered.after, table.Heartbeat(incarnation), NOW), Transition)
