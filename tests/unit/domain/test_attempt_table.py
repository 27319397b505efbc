"""Every (attempt state, job state) of the attempt's table, for its own and for other numbers."""

from __future__ import annotations

import pytest

from dstack.domain.lifecycle import EndAttempt, MarkPartial, Transition
from dstack.domain.lifecycle.attempt import Attempt, AttemptState, follow, of
from dstack.domain.lifecycle.job import Job, JobState
from dstack.domain.reasons import Reason
from tests.unit.domain.rendering import render

LIVE = ("assigned", "starting", "running", "saving")
OVER = ["waiting", "queued", "done", "failed", "stopped", "skipped"]
ENDED = "ended outcome=told"

GRID = {
    #            assigned   starting    running    saving     (the job's state after the move)
    "assigned": ("ignored", "starting", "running", "saving"),
    "starting": ("refused", "ignored", "running", "saving"),
    "running": ("refused", "refused", "ignored", "saving"),
    "saving": ("refused", "refused", "refused", "ignored"),
    "ended": ("late", "late", "late", "late"),
}


def attempt(state: AttemptState) -> Attempt:
    return Attempt(2, state, "done before" if state is AttemptState.ENDED else None)


def test_the_grid_names_every_state() -> None:
    assert tuple(GRID) == tuple(AttemptState) == (*LIVE, "ended")
    assert {*LIVE, *OVER} == set(JobState)


@pytest.mark.parametrize("state", AttemptState)
@pytest.mark.parametrize("job_state", LIVE)
def test_it_follows_its_job_forward(state: AttemptState, job_state: str) -> None:
    before = attempt(state)
    expected = GRID[state][LIVE.index(job_state)]
    assert render(before, follow(before, Transition(Job(JobState(job_state), attempt=2)))) == expected


@pytest.mark.parametrize("state", AttemptState)
@pytest.mark.parametrize("job_state", OVER)
def test_any_other_state_of_the_job_ends_it_once(state: AttemptState, job_state: str) -> None:
    before = attempt(state)
    move = Transition(Job(JobState(job_state), attempt=2), (MarkPartial(), EndAttempt(2, "told")))
    assert render(before, follow(before, move)) == ("late" if state is AttemptState.ENDED else ENDED)


@pytest.mark.parametrize("state", AttemptState)
@pytest.mark.parametrize("job_state", JobState)
def test_a_newer_attempt_ends_it_even_untold(state: AttemptState, job_state: JobState) -> None:
    before = attempt(state)
    move = Transition(Job(job_state, attempt=3), (EndAttempt(3, "of another"),))
    expected = "late" if state is AttemptState.ENDED else "ended outcome=superseded"
    assert render(before, follow(before, move)) == expected


@pytest.mark.parametrize("job_state", JobState)
def test_an_attempt_that_its_job_never_had_is_refused(job_state: JobState) -> None:
    before = Attempt(2)
    assert render(before, follow(before, Transition(Job(job_state, attempt=1)))) == "refused"


def test_the_outcome_is_the_reasons_value() -> None:
    decision = follow(Attempt(1), Transition(Job(JobState.FAILED, attempt=1), (EndAttempt(1, Reason.OOM),)))
    assert isinstance(decision, Transition)
    assert decision.after == Attempt(1, AttemptState.ENDED, "oom")


@pytest.mark.parametrize("state", JobState)
def test_the_live_attempt_of_a_job(state: JobState) -> None:
    expected = Attempt(4, AttemptState(state)) if state in LIVE else None
    assert of(Job(state, attempt=4)) == expected
