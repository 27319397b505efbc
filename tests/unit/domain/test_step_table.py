"""Every (step state, event) of the step's table: moves of its own jobs, and of the steps that it depends on."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from dstack.domain import rules
from dstack.domain.lifecycle import Outcome, Release, Transition
from dstack.domain.lifecycle import step as table
from dstack.domain.lifecycle.job import Job, JobState
from dstack.domain.lifecycle.step import JobMoved, NeedMoved, Step, StepState
from dstack.domain.reasons import Reason
from tests.unit.domain.rendering import NOW, render

BEGUN = ("queued", "assigned", "starting", "running", "saving")
ENDS = ("done", "failed", "stopped", "skipped")
OPEN = ("waiting", "running")

GRID: dict[tuple[str, str], str] = {
    # What a job's move to an open state does, by the step's state.
    ("waiting", "waiting"): "ignored",
    **{("waiting", state): "running" for state in BEGUN},
    **{(step, job): "ignored" for step in ("running", *ENDS) for job in ("waiting", *BEGUN)},
}
LAST: dict[tuple[str, str], str] = {
    # What the end of the last open job does: the first end that is not a success stands, and dependents are told.
    **{(step, "done"): "done open_jobs=0 | tell success over" for step in OPEN},
    **{(step, job): f"{job} open_jobs=0 | tell failure over" for step in OPEN for job in ("failed", "stopped")},
    **{(step, "skipped"): "skipped open_jobs=0 | tell skipped over" for step in OPEN},
    # A failure was told when it was seen.
    **{(step, job): f"{step} open_jobs=0 | tell nothing new over" for step in ("failed", "stopped") for job in ENDS},
    **{("skipped", job): "skipped open_jobs=0 | tell skipped over" for job in ENDS},
    # It cannot be: a step is done when no job is open.
    **{("done", job): "done open_jobs=0 | tell success over" for job in ENDS},
}
NOT_LAST: dict[tuple[str, str], str] = {
    # The same while siblings are open: they go on. A failure is told at once, the rest when all have ended.
    **{(step, "done"): "running open_jobs=2" for step in OPEN},
    **{(step, job): f"{job} open_jobs=2 | tell failure" for step in OPEN for job in ("failed", "stopped")},
    **{(step, "skipped"): "skipped open_jobs=2" for step in OPEN},
    **{(step, job): f"{step} open_jobs=2" for step in ENDS for job in ENDS},
}


def test_the_grids_name_everything() -> None:
    assert {*BEGUN, *ENDS, "waiting"} == set(JobState)
    everything = {(step, job) for step in StepState for job in JobState}
    assert GRID.keys() | LAST.keys() == everything
    assert LAST.keys() == NOT_LAST.keys()


@pytest.mark.parametrize(("step", "job"), GRID)
def test_open_states(step: str, job: str) -> None:
    before = Step(StepState(step), 2)
    assert render(before, table.decide(before, JobMoved(JobState(job)), NOW)) == GRID[step, job]


@pytest.mark.parametrize(("step", "job"), LAST)
def test_the_last_job(step: str, job: str) -> None:
    before = Step(StepState(step), 1)
    assert render(before, table.decide(before, JobMoved(JobState(job)), NOW)) == LAST[step, job]


@pytest.mark.parametrize(("step", "job"), NOT_LAST)
def test_a_job_with_open_siblings(step: str, job: str) -> None:
    before = Step(StepState(step), 3)
    assert render(before, table.decide(before, JobMoved(JobState(job)), NOW)) == NOT_LAST[step, job]


@pytest.mark.parametrize("job", ENDS)
@pytest.mark.parametrize("step", ENDS)
def test_nothing_is_counted_twice(step: str, job: str) -> None:
    before = Step(StepState(step), 0)
    assert render(before, table.decide(before, JobMoved(JobState(job)), NOW)) == "ignored"


def test_a_failure_of_which_a_step_stops_its_siblings() -> None:
    """Only a failure does, only once it is final, and only where somebody is left."""
    for state, job, left in product(OPEN + ENDS, JobState, (0, 1)):
        before = Step(StepState(state), left + 1, fail_fast=True)
        told = render(before, table.decide(before, JobMoved(job), NOW))
        assert ("stop siblings" in told) == (job == "failed" and left > 0), (state, job, left)


def test_a_failure_that_dependents_may_ignore_is_told_when_all_jobs_have_ended() -> None:
    before = Step(StepState.RUNNING, 2, continue_on_failure=True)
    first = table.decide(before, JobMoved(JobState.FAILED), NOW)
    assert render(before, first) == "failed open_jobs=1"
    assert isinstance(first, Transition)
    last = table.decide(first.after, JobMoved(JobState.DONE), NOW)
    assert render(first.after, last) == "failed open_jobs=0 | tell success over"


def test_only_a_failure_may_be_ignored() -> None:
    for state in ("stopped", "skipped"):
        before = Step(StepState.RUNNING, 1, need_failed=True, continue_on_failure=True)
        told = render(before, table.decide(before, JobMoved(JobState(state)), NOW))
        assert told == f"{state} open_jobs=0 | tell failure over"


# --- dependencies ------------------------------------------------------------------------------------------------

NEEDS: dict[tuple[str, str], dict[str, str]] = {
    # By the rule, and by (what a dependency came to, whether another is still open): what a waiting step does.
    ("success", "last"): {
        "success()": "begin", "failed()": "skip", "always()": "begin", "not failed()": "begin", "false": "skip",
        "success() or failed()": "begin", "not success()": "skip",
    },
    ("failure", "last"): {
        "success()": "skip", "failed()": "begin", "always()": "begin", "not failed()": "skip", "false": "skip",
        "success() or failed()": "begin", "not success()": "begin",
    },
    ("skipped", "last"): {
        "success()": "skip", "failed()": "skip", "always()": "begin", "not failed()": "begin", "false": "skip",
        "success() or failed()": "skip", "not success()": "begin",
    },
    ("success", "more"): {
        "success()": "", "failed()": "", "always()": "", "not failed()": "", "false": "skip",
        "success() or failed()": "", "not success()": "",
    },
    ("failure", "more"): {
        # Only what asks for success alone is false early; whatever could be true waits for all.
        "success()": "skip", "failed()": "", "always()": "", "not failed()": "", "false": "skip",
        "success() or failed()": "", "not success()": "",
    },
    ("skipped", "more"): {
        "success()": "", "failed()": "", "always()": "", "not failed()": "", "false": "skip",
        "success() or failed()": "", "not success()": "",
    },
}  # fmt: skip
RULES = tuple(NEEDS["success", "last"])


def test_the_grid_of_dependencies_names_everything() -> None:
    assert NEEDS.keys() == set(product(Outcome, ("last", "more")))
    assert all(cells.keys() == set(RULES) for cells in NEEDS.values())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("came_to", "left"), NEEDS)
def test_a_dependency_that_ended(came_to: str, left: str, rule: str) -> None:
    before = Step(StepState.WAITING, 1, unmet=1 if left == "last" else 2, rule=rule)
    told = render(before, table.decide(before, NeedMoved(Outcome(came_to), over=True), NOW))
    changed = {"success": "", "failure": " need_failed=True", "skipped": " need_skipped=True"}[came_to]
    effect = NEEDS[came_to, left][rule]
    assert told == f"waiting unmet={before.unmet - 1}{changed}" + (f" | {effect}" if effect else "")


@pytest.mark.parametrize("rule", RULES)
def test_a_failure_whose_siblings_go_on_decides_only_what_fails_early(rule: str) -> None:
    before = Step(StepState.WAITING, 1, unmet=1, rule=rule)
    told = table.decide(before, NeedMoved(Outcome.FAILURE, over=False), NOW)
    early = rule in ("success()", "false")
    assert render(before, told) == "waiting need_failed=True" + (" | skip" if early else "")


@pytest.mark.parametrize("state", [state for state in StepState if state != "waiting"])
def test_a_step_that_does_not_wait_only_counts(state: StepState) -> None:
    before = Step(state, 1, unmet=2)
    told = table.decide(before, NeedMoved(Outcome.FAILURE, over=True), NOW)
    assert render(before, told) == f"{state} unmet=1 need_failed=True"


def test_a_dependency_is_not_over_twice() -> None:
    before = Step(StepState.WAITING, 1)
    assert render(before, table.decide(before, NeedMoved(None, over=True), NOW)) == "ignored"


def test_an_early_no_is_never_taken_back() -> None:
    """Whatever else a step is told after a rule was false stays with that."""
    for rule, outcomes in product(RULES, product(Outcome, repeat=3)):
        step = Step(StepState.WAITING, 1, unmet=3, rule=rule)
        verdicts: list[bool] = []
        for came_to in outcomes:
            decision = table.decide(step, NeedMoved(came_to, over=True), NOW)
            assert isinstance(decision, Transition)
            step = decision.after
            verdicts += [effect.begin for effect in decision.effects if isinstance(effect, Release)]
        assert len(set(verdicts)) == 1, (rule, outcomes, verdicts)


# --- new steps ---------------------------------------------------------------------------------------------------

DONE = Step(StepState.DONE, 0)
FAILED = Step(StepState.FAILED, 0)
ABSENT = Step(StepState.SKIPPED, 0)
GOING_ON = Step(StepState.RUNNING, 1)


@pytest.mark.parametrize(
    ("needs", "rule", "expected"),
    [
        ([], "success()", Step(StepState.RUNNING, 2)),
        ([], "always()", Step(StepState.RUNNING, 2)),
        ([], "failed()", Step(StepState.SKIPPED, 0)),
        ([], "false", Step(StepState.SKIPPED, 0)),
        ([GOING_ON], "success()", Step(StepState.WAITING, 2, unmet=1)),
        ([GOING_ON], "false", Step(StepState.SKIPPED, 0, unmet=1)),
        ([GOING_ON, GOING_ON, DONE], "always()", Step(StepState.WAITING, 2, unmet=2)),
        ([DONE], "success()", Step(StepState.RUNNING, 2)),
        ([ABSENT], "success()", Step(StepState.SKIPPED, 0, need_skipped=True)),
        ([ABSENT], "not failed()", Step(StepState.RUNNING, 2, need_skipped=True)),
        ([ABSENT, GOING_ON], "success()", Step(StepState.WAITING, 2, unmet=1, need_skipped=True)),
        ([FAILED, GOING_ON], "success()", Step(StepState.SKIPPED, 0, unmet=1, need_failed=True)),
        ([replace(FAILED, continue_on_failure=True)], "success()", Step(StepState.RUNNING, 2)),
        ([Step(StepState.FAILED, 1)], "failed()", Step(StepState.WAITING, 2, unmet=1, need_failed=True)),
    ],
)
def test_created(needs: list[Step], rule: str, expected: Step) -> None:
    assert table.created(2, needs, rule=rule) == replace(expected, rule=rule)


def test_a_step_without_jobs_is_done() -> None:
    assert table.created(0, [GOING_ON]) == Step(StepState.DONE, 0, unmet=1)


def test_the_first_state_of_jobs() -> None:
    assert table.first_job(table.created(1)) == Job(JobState.QUEUED)
    assert table.first_job(table.created(1, [GOING_ON])) == Job(JobState.WAITING)
    assert table.first_job(table.created(1, [ABSENT])) == Job(JobState.SKIPPED, reason=Reason.DEPENDENCY)
    assert table.first_job(table.created(1, rule="false")) == Job(JobState.SKIPPED, reason=Reason.CONDITION)


@pytest.mark.parametrize("state", StepState)
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("need_failed", [False, True])
def test_outcomes(state: StepState, ignored: bool, need_failed: bool) -> None:
    step = Step(state, 0, need_failed=need_failed, continue_on_failure=ignored)
    if state == "done" or (state == "failed" and ignored):
        assert table.outcome(step) == "success"
    elif state == "skipped" and not need_failed:
        assert table.outcome(step) == "skipped"
    else:
        assert table.outcome(step) == "failure"


def test_a_rule_that_nobody_states_is_success() -> None:
    assert Step(StepState.WAITING, 1).rule == rules.SUCCESS == "success()"
