"""All situations a job can get into, walked to the last: what holds between the cells of the table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from graphlib import TopologicalSorter
from itertools import product

import pytest

from dstack.domain.lifecycle import BeginAttempt, EndAttempt, Transition, attempt
from dstack.domain.lifecycle import job as table
from dstack.domain.lifecycle.job import LIVE_ATTEMPT, TERMINAL, Intent, Job, JobEvent, JobState, Policy
from dstack.domain.reasons import END_STATE, Reason

NOW = 1_700_000_000_000_000
POLICY = Policy(retry_on=frozenset(Reason), retry_max=1, max_rejections=2, max_unstarted=2)


def events(job: Job) -> Iterator[JobEvent]:
    yield from (
        table.RuleTrue(),
        table.RuleFalse(),
        table.RuleFalse(condition=True),
        table.Placed(),
        table.Unsatisfiable(),
    )
    yield from (table.StopAsked(), table.StopAsked(abort=True))
    for number in (job.attempt - 1, job.attempt, job.attempt + 1):
        exits = [
            table.Exited(number, code, oom, aborted)
            for code, oom, aborted in product((0, 1, 137, None), (False, True), (False, True))
        ]
        yield from (table.Accepted(number), table.Rejected(number), table.Returned(number), table.Started(number))
        yield table.Returned(number, recalled=True)
        yield from (table.SetupFailed(number), table.SetupFailed(number, timeout=True), table.TimeLimit(number))
        yield from (*exits, table.Saved(number), table.SaveFailed(number))
        yield from (table.Saved(number, told) for told in exits)
        yield from (table.SaveFailed(number, told) for told in exits)
        yield from (table.Lost(number), table.Lost(number, preempted=True))


Step = tuple[Job, JobEvent, Transition[Job]]


def canonical(job: Job) -> Job:
    """`job` without what only grows: attempts that were recalled do not count, so numbers have no bound."""
    return replace(job, attempt=min(job.attempt, 2), not_before=None)


@pytest.fixture(scope="module")
def steps() -> list[Step]:
    """Every transition from every reachable situation."""
    found: list[Step] = []
    open_ = [replace(table.created(unmet=unmet), policy=POLICY) for unmet in (True, False)]
    seen = set(open_)
    while open_:
        job = open_.pop()
        for event in events(job):
            decision = table.decide(job, event, NOW)
            if isinstance(decision, Transition):
                found.append((job, event, decision))
                after = canonical(decision.after)
                if after not in seen:
                    seen.add(after)
                    open_.append(after)
    return found


def test_which_states_exist_with_which_intent(steps: list[Step]) -> None:
    """What `test_job_table` leaves out cannot happen: a stop ends a job that no attempt holds, at once."""
    without_attempt = {JobState.WAITING, JobState.QUEUED, JobState.SKIPPED}
    found = {(job.state, job.intent) for _, _, move in steps for job in (move.after,)} | {
        (JobState.WAITING, Intent.NONE)
    }
    assert found == {
        (state, intent)
        for state in JobState
        for intent in Intent
        if intent is Intent.NONE or state not in without_attempt
    }
    saving = {(move.after.outcome, move.after.intent) for _, _, move in steps if move.after.state is JobState.SAVING}
    assert (Reason.STOPPED, Intent.NONE) not in saving
    assert {outcome for outcome, intent in saving if intent is Intent.NONE} == {
        Reason.EXIT_ZERO, Reason.EXIT_CODE, Reason.SIGNAL, Reason.OOM, Reason.TIMEOUT, Reason.UNKNOWN_EXIT,
    }  # fmt: skip


def test_terminal_states_never_change(steps: list[Step]) -> None:
    assert not [step for step in steps if step[0].state in TERMINAL]


def test_a_job_goes_back_only_to_queued_and_attempts_only_forward(steps: list[Step]) -> None:
    order = list(JobState)
    for job, event, move in steps:
        after = move.after
        if order.index(after.state) < order.index(job.state):
            assert after.state is JobState.QUEUED, (job, event)
            assert job.state in LIVE_ATTEMPT
        assert after.attempt == job.attempt + isinstance(event, table.Placed)


def test_attempts_begin_and_end_exactly_with_their_states(steps: list[Step]) -> None:
    for job, event, move in steps:
        after = move.after
        begun = [effect.number for effect in move.effects if isinstance(effect, BeginAttempt)]
        ended = [effect.number for effect in move.effects if isinstance(effect, EndAttempt)]
        assert begun == ([after.attempt] if after.attempt > job.attempt else []), (job, event)
        over = job.state in LIVE_ATTEMPT and after.state not in LIVE_ATTEMPT
        assert ended == ([job.attempt] if over else []), (job, event)
        live = attempt.of(job)
        if live is not None:
            assert not isinstance(attempt.follow(live, move), attempt.Refused), (job, event)
            following = attempt.follow(live, move)
            state = following.after.state if isinstance(following, Transition) else live.state
            assert state == (after.state if after.state in LIVE_ATTEMPT else "ended"), (job, event)


def test_every_end_has_the_reason_that_leads_to_it(steps: list[Step]) -> None:
    for job, event, move in steps:
        after = move.after
        if after.state in TERMINAL:
            assert after.reason is not None
            assert END_STATE[after.reason] == after.state, (job, event)
            assert (after.state is JobState.DONE) == (after.reason is Reason.EXIT_ZERO), "nothing else is success"
            assert not (after.state is JobState.DONE and after.artifacts_incomplete)
        else:
            assert after.reason is None, (job, event)


def test_a_stop_asked_is_never_forgotten_and_never_retried(steps: list[Step]) -> None:
    for job, event, move in steps:
        rank = list(Intent).index
        assert rank(move.after.intent) >= rank(job.intent), (job, event)
        if job.intent is not Intent.NONE:
            assert move.after.state is not JobState.QUEUED, (job, event)
            if job.state is not JobState.SAVING and move.after.state in TERMINAL:
                assert move.after.state is JobState.STOPPED, (job, event)


def test_success_is_never_followed_by_an_attempt(steps: list[Step]) -> None:
    for job, event, move in steps:
        if job.outcome is Reason.EXIT_ZERO:
            assert move.after.state is not JobState.QUEUED, (job, event)
            assert move.after.outcome is Reason.EXIT_ZERO, "the outcome is fixed at exit"


def test_an_outcome_fixed_at_exit_stands(steps: list[Step]) -> None:
    for job, event, move in steps:
        if job.state is JobState.SAVING and move.after.state is not JobState.QUEUED:
            assert (move.after.outcome, move.after.exit_code) == (job.outcome, job.exit_code), (job, event)


def test_nothing_but_what_the_server_recalls_can_repeat_for_ever(steps: list[Step]) -> None:
    """Bounded: whatever runners, networks and policies do, no path comes back to where it was."""
    graph = TopologicalSorter[Job]()
    for job, event, move in steps:
        recalled = isinstance(event, table.Returned) and event.recalled
        after = canonical(move.after)
        if not recalled and canonical(job) != after:
            graph.add(after, canonical(job))
    graph.prepare()


def test_the_server_alone_can_end_every_situation(steps: list[Step]) -> None:
    """Deadlines, leases and the placer lead from everywhere to an end, without a word from a runner."""
    by_server = (table.RuleFalse, table.Unsatisfiable, table.Placed, table.Returned, table.Lost)
    ways: dict[Job, set[Job]] = {}
    for job, event, move in steps:
        deadline = isinstance(event, table.SetupFailed) and event.timeout
        deadline |= isinstance(event, table.SaveFailed) and event.exit is None
        if deadline or isinstance(event, by_server):
            ways.setdefault(canonical(move.after), set()).add(canonical(job))
    reaches = {job for job in ways if job.state in TERMINAL}
    open_ = list(reaches)
    while open_:
        for before in ways.get(open_.pop(), ()):
            if before not in reaches:
                reaches.add(before)
                open_.append(before)
    assert {canonical(job) for job, _, _ in steps} <= reaches
