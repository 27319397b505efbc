"""Every (step state, job state, open jobs) of the step's table."""

from __future__ import annotations

import pytest

from dstack.domain.lifecycle import step as table
from dstack.domain.lifecycle.job import JobState
from dstack.domain.lifecycle.step import JobMoved, Step, StepState
from tests.unit.domain.rendering import NOW, render

BEGUN = ("queued", "assigned", "starting", "running", "saving")
ENDS = ("done", "failed", "stopped", "skipped")

GRID: dict[tuple[str, str], str] = {
    # What a job's move to an open state does, by the step's state.
    ("waiting", "waiting"): "ignored",
    **{("waiting", state): "running" for state in BEGUN},
    **{(step, job): "ignored" for step in ("running", *ENDS) for job in ("waiting", *BEGUN)},
}
LAST: dict[tuple[str, str], str] = {
    # What the end of the last open job does. The first end that is not a success stands.
    **{(step, job): job for step in ("waiting", "running") for job in ENDS},
    **{(step, job): step for step in ENDS for job in ENDS},
}
NOT_LAST: dict[tuple[str, str], str] = {
    # The same while siblings are open: they go on.
    **LAST,
    ("waiting", "done"): "running",
    ("running", "done"): "running",
}


def test_the_grids_name_everything() -> None:
    assert {*BEGUN, *ENDS, "waiting"} == set(JobState)
    assert GRID.keys() | LAST.keys() == {(step, job) for step in StepState for job in JobState}


@pytest.mark.parametrize(("step", "job"), GRID)
def test_open_states(step: str, job: str) -> None:
    before = Step(StepState(step), 2)
    assert render(before, table.decide(before, JobMoved(JobState(job)), NOW)) == GRID[step, job]


@pytest.mark.parametrize(("step", "job"), LAST)
def test_the_last_job(step: str, job: str) -> None:
    before = Step(StepState(step), 1)
    assert render(before, table.decide(before, JobMoved(JobState(job)), NOW)) == f"{LAST[step, job]} open_jobs=0"


@pytest.mark.parametrize(("step", "job"), NOT_LAST)
def test_a_job_with_open_siblings(step: str, job: str) -> None:
    before = Step(StepState(step), 3)
    assert render(before, table.decide(before, JobMoved(JobState(job)), NOW)) == f"{NOT_LAST[step, job]} open_jobs=2"


@pytest.mark.parametrize("job", ENDS)
@pytest.mark.parametrize("step", ENDS)
def test_nothing_is_counted_twice(step: str, job: str) -> None:
    before = Step(StepState(step), 0)
    assert render(before, table.decide(before, JobMoved(JobState(job)), NOW)) == "ignored"


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        ([], Step(StepState.DONE, 0)),
        (["done", "done"], Step(StepState.DONE, 0)),
        (["waiting", "waiting"], Step(StepState.WAITING, 2)),
        (["queued", "done"], Step(StepState.RUNNING, 1)),
    ],
)
def test_created(jobs: list[str], expected: Step) -> None:
    assert table.created([JobState(state) for state in jobs]) == expected


@pytest.mark.parametrize("state", StepState)
def test_only_done_is_success(state: StepState) -> None:
    assert table.success(state) is (state == "done")
