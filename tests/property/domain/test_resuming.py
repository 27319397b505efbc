"""What a run takes over from the one before it, on graphs of any form: by itself, and through the tables of states."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from dstack.domain.lifecycle import Outcome, Release, Transition
from dstack.domain.lifecycle import step as step_table
from dstack.domain.lifecycle.job import JobState
from dstack.domain.lifecycle.step import Step, StepState
from dstack.domain.resuming import Before, StepOfRun, taken_over


@dataclass(frozen=True)
class Graph:
    steps: tuple[StepOfRun, ...]
    states: dict[str, str]
    """Of the old run's jobs; a step that is new has none."""

    @property
    def before(self) -> Before:
        by = {state: {name for name, of in self.states.items() if of == state} for state in ("done", "skipped")}
        return Before(by["done"], by["skipped"])


@st.composite
def graphs(draw: st.DrawFn, states: tuple[str, ...] = ("done", "failed", "stopped", "skipped", "new")) -> Graph:
    steps: list[StepOfRun] = []
    found: dict[str, str] = {}
    for number in range(draw(st.integers(1, 7))):
        needs = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set[int]()
        jobs = tuple(f"s{number}-{job}" for job in range(draw(st.integers(1, 3))))
        steps.append(StepOfRun(f"s{number}", tuple(f"s{need}" for need in sorted(needs)), jobs))
        of_jobs = [draw(st.sampled_from(states)) for _ in jobs]
        found.update((job, state) for job, state in zip(jobs, of_jobs, strict=True) if state != "new")
    return Graph(tuple(steps), found)


def above(graph: Graph, name: str) -> set[str]:
    """The steps that `name` depends on, however far."""
    by_name = {step.name: step for step in graph.steps}
    found: set[str] = set()
    waiting = list(by_name[name].needs)
    while waiting:
        if (need := waiting.pop()) not in found:
            found.add(need)
            waiting.extend(by_name[need].needs)
    return found


@given(graphs(), st.data())
def test_what_is_taken_over_is_done_and_so_is_all_before_it(graph: Graph, data: st.DataObject) -> None:
    again = data.draw(st.sets(st.sampled_from([name for step in graph.steps for name in (step.name, *step.jobs)])))
    taken = taken_over(graph.steps, graph.before, again)
    by_name = {step.name: step for step in graph.steps}
    for step in graph.steps:
        for job in taken.intersection(step.jobs):
            assert graph.states[job] == "done"
            assert not {job, step.name} & again
            for need in above(graph, step.name):
                jobs = by_name[need].jobs
                assert taken.issuperset(jobs) or all(graph.states.get(name) == "skipped" for name in jobs)
                assert not {need, *jobs} & again or not taken.issuperset(jobs)


@given(graphs(("done", "failed", "new")))
def test_nothing_that_could_be_taken_over_runs_again(graph: Graph) -> None:
    """A done job runs again only if one before it does."""
    taken = taken_over(graph.steps, graph.before)
    for step in graph.steps:
        for job in step.jobs:
            if graph.states.get(job) == "done" and job not in taken:
                jobs = {name for other in graph.steps if other.name in above(graph, step.name) for name in other.jobs}
                assert not jobs <= taken


@given(graphs(("done", "failed", "new")))
def test_the_rest_runs_once_each_when_what_it_needs_is_done(graph: Graph) -> None:
    """Through the step's table: reused jobs are there from the start, each other job begins once, after its needs."""
    taken = taken_over(graph.steps, graph.before)
    states: dict[str, Step] = {}
    for step in graph.steps:
        reused = len(taken.intersection(step.jobs))
        states[step.name] = step_table.created(len(step.jobs), [states[name] for name in step.needs], reused=reused)
    begun: list[str] = []
    for step in graph.steps:  # each after those that it needs
        for name in step.needs:
            assert states[name].state is StepState.DONE
        left = [job for job in step.jobs if job not in taken]
        if left and states[step.name].state is StepState.WAITING:
            states[step.name] = released(step, states)
        assert states[step.name].state is (StepState.RUNNING if left else StepState.DONE)
        for job in left:
            begun.append(job)
            states[step.name] = moved(states[step.name], step_table.JobMoved(JobState.DONE)).after
    assert sorted(begun) == sorted({job for step in graph.steps for job in step.jobs} - taken)
    assert all(state.state is StepState.DONE for state in states.values())


def released(step: StepOfRun, states: dict[str, Step]) -> Step:
    """The step once the needs that were not over when it was made have told it so."""
    state, effects = states[step.name], ()
    for _ in range(state.unmet):
        assert not effects
        change = moved(state, step_table.NeedMoved(Outcome.SUCCESS, over=True))
        state, effects = change.after, change.effects
    assert effects == (Release(True),)
    return moved(state, step_table.JobMoved(JobState.QUEUED)).after


def moved(state: Step, event: step_table.StepEvent) -> Transition[Step]:
    change = step_table.decide(state, event, 0)
    assert isinstance(change, Transition)
    return change
