"""How often a job is tried again, and after how long: retries, rejections, and attempts that never started."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dstack.domain.lifecycle import Ignored, Transition
from dstack.domain.lifecycle import job as table
from dstack.domain.lifecycle.job import Job, JobEvent, JobState, Policy
from dstack.domain.ports import SECOND
from dstack.domain.reasons import Reason
from tests.unit.domain.rendering import NOW, render

EVERYTHING = Policy(retry_on=frozenset(Reason), retry_max=2)


def test_only_listed_reasons_and_counted_attempts_retry() -> None:
    policy = Policy(retry_on=frozenset({Reason.EXIT_CODE}), retry_max=1)
    saving = Job(JobState.SAVING, attempt=9, counted=1, outcome=Reason.EXIT_CODE, policy=policy)
    assert render(saving, table.decide(saving, table.Saved(9), NOW)).startswith("queued"), "8 never started"
    spent = replace(saving, counted=2)
    assert render(spent, table.decide(spent, table.Saved(9), NOW)).startswith("failed reason=exit-code")
    other = replace(saving, outcome=Reason.SIGNAL)
    assert render(other, table.decide(other, table.Saved(9), NOW)).startswith("failed reason=signal")


def test_back_off_doubles_up_to_its_longest() -> None:
    policy = Policy(retry_on=frozenset({Reason.RUNNER_LOST}), retry_max=10_000, backoff=3)
    waits: list[float] = []
    for counted in (1, 2, 3, 8, 5000):
        job = Job(JobState.RUNNING, attempt=counted, counted=counted, policy=policy)
        words = render(job, table.decide(job, table.Lost(counted), NOW))
        waits.append(float(words.split("not_before=+")[1].split("s")[0]))
    assert waits == [3, 6, 12, 300, 300]


def test_rejections_back_off_and_end_after_the_policys_number() -> None:
    job = Job(JobState.QUEUED, policy=Policy(max_rejections=3))
    seen: list[str] = []
    for number in (1, 2, 3):
        placed = table.decide(replace(job, not_before=None), table.Placed(), NOW)
        assert isinstance(placed, table.Transition)
        rejected = table.decide(placed.after, table.Rejected(number), NOW)
        assert isinstance(rejected, table.Transition)
        seen.append(render(placed.after, rejected))
        job = rejected.after
    assert seen == [
        "queued rejections=1 not_before=+1s | end 1 rejected",
        "queued rejections=2 not_before=+2s | end 2 rejected",
        "failed rejections=3 reason=runner-rejected | end 3 rejected",
    ]


LOST_ONCE = {
    "assigned": (
        table.Returned,
        "queued unstarted={} | end {} returned",
        "failed unstarted=3 reason=runner-lost | end 3 returned",
    ),
    "starting": (
        table.Lost,
        "queued unstarted={} not_before=+1s | partial, end {} runner-lost",
        "failed unstarted=3 reason=runner-lost | partial, end 3 runner-lost",
    ),
}


@pytest.mark.parametrize("state", LOST_ONCE)
def test_attempts_that_never_start_end_after_the_policys_number(state: str) -> None:
    """Whatever the policy says of retries, of which they spend none."""
    event, again, end = LOST_ONCE[state]
    job = Job(JobState.QUEUED, policy=replace(EVERYTHING, max_unstarted=3))
    for number in (1, 2, 3):
        job = moved(replace(job, not_before=None), table.Placed())
        if state == "starting":
            job = moved(job, table.Accepted(number))
        seen = render(job, table.decide(job, event(number), NOW))
        assert seen == (end if number == 3 else again.format(number, number))
        job = moved(job, event(number))
    assert job.counted == 0


def test_a_start_forgets_what_was_lost_before_it() -> None:
    for start in (table.Started(3), table.Exited(3, 1), table.Saved(3, table.Exited(3, 1))):
        job = Job(JobState.ASSIGNED, attempt=3, unstarted=2, policy=replace(EVERYTHING, max_unstarted=3))
        assert moved(job, start).unstarted == 0


def test_a_clock_set_back_does_not_lengthen_a_back_off() -> None:
    later = 3_600 * SECOND
    assert not table.backs_off(None, 0)
    assert not table.backs_off(later, later)
    assert table.backs_off(later, later - 1)
    assert table.backs_off(later, later - int(table.LONGEST_BACKOFF * SECOND))
    assert not table.backs_off(later, 0)
    waiting = Job(JobState.QUEUED, attempt=1, not_before=later)
    assert isinstance(table.decide(waiting, table.Placed(), 0), Transition)
    assert isinstance(table.decide(waiting, table.Placed(), later - 1), Ignored)


def moved(job: Job, event: JobEvent) -> Job:
    decision = table.decide(job, event, NOW)
    assert isinstance(decision, Transition)
    return decision.after
