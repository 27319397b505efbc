"""The step's table: done when all its jobs are done; failed or stopped when one is; skipped when all are.

A step begins when its rule over its dependencies is true (`dstack.domain.rules`), and is skipped when it is false.
What a step comes to for those that depend on it, its `Outcome`, is told once, and no sooner than it matters: a
failure at once, so that the default rule fails early; everything else when the last of the step's jobs has ended.

- `continue_on_failure`: a failed step counts as success for its dependents, once all its jobs have ended. The run's
  own end does not change by it: a run with a failed job failed.
- `fail_fast`: the first job that fails for good (after its retries) stops its siblings, the other jobs of the same
  step. A step with one job has none, and other steps go on in any case.
- A stop of the run ends steps that wait whatever their rule says: `always()` is about dependencies, not about people.
- Skipped steps: one that was skipped because something before it failed counts as failed, so that `failed()` sees
  through it; one that its own rule kept from running is neither a success nor a failure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from dstack.domain import rules
from dstack.domain.lifecycle import (
    Decision,
    Effect,
    Ignored,
    Outcome,
    Release,
    StopSiblings,
    TellDependents,
    Transition,
)
from dstack.domain.lifecycle.job import TERMINAL as JOB_TERMINAL
from dstack.domain.lifecycle.job import Job, JobState
from dstack.domain.lifecycle.job import created as created_job
from dstack.domain.reasons import Reason


class StepState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"
    SKIPPED = "skipped"


TERMINAL = frozenset({StepState.DONE, StepState.FAILED, StepState.STOPPED, StepState.SKIPPED})


@dataclass(frozen=True, slots=True)
class Step:
    state: StepState
    open_jobs: int
    """Jobs of the step that are not terminal."""
    unmet: int = 0
    """Dependencies of which a job is not terminal."""
    need_failed: bool = False
    """Whether a dependency is known to have failed."""
    need_skipped: bool = False
    """Whether a dependency was skipped without a failure before it."""
    rule: str = rules.SUCCESS
    fail_fast: bool = False
    continue_on_failure: bool = False

    @property
    def verdict(self) -> bool | None:
        """Whether its jobs may begin; None while that is open."""
        return rules.verdict(
            self.rule, over=not self.unmet, need_failed=self.need_failed, need_skipped=self.need_skipped
        )


@dataclass(frozen=True, slots=True)
class JobMoved:
    """One job of the step entered `state`."""

    state: JobState


@dataclass(frozen=True, slots=True)
class NeedMoved:
    """A dependency's outcome is known now, or the last of its jobs has ended (`over`), or both."""

    outcome: Outcome | None
    over: bool


StepEvent = JobMoved | NeedMoved


def created(
    jobs: int,
    needs: Iterable[Step] = (),
    *,
    rule: str = rules.SUCCESS,
    fail_fast: bool = False,
    continue_on_failure: bool = False,
    reused: int = 0,
) -> Step:
    """A new step of `jobs` jobs that depends on `needs`; skipped where its rule is false already.

    `reused` of its jobs are taken from an earlier run, and so are done; then all that it depends on is settled.
    """
    policy = {"fail_fast": fail_fast, "continue_on_failure": continue_on_failure}
    step = Step(StepState.WAITING, jobs - reused, rule=rule, **policy)
    for need in needs:
        told = NeedMoved(outcome(need) if _is_told(need) else None, over=not need.open_jobs)
        step = _told(replace(step, unmet=step.unmet + 1), told)
    if not step.open_jobs:
        return replace(step, state=StepState.DONE)
    match step.verdict:
        case True:
            return replace(step, state=StepState.RUNNING)
        case False:
            return replace(step, state=StepState.SKIPPED, open_jobs=0)
        case None:
            return step


def first_job(step: Step) -> Job:
    """What the jobs of a new step begin as."""
    skipped = Reason.DEPENDENCY if step.rule == rules.SUCCESS else Reason.CONDITION
    return created_job(
        unmet=step.state is StepState.WAITING, skipped=skipped if step.state is StepState.SKIPPED else None
    )


def decide(step: Step, event: StepEvent, now: int) -> Decision[Step]:
    """The step's next value. A failed step stays failed while its siblings go on, so only the count moves."""
    if isinstance(event, NeedMoved):
        return _need_moved(step, event)
    if event.state not in JOB_TERMINAL:
        if step.state is StepState.WAITING and event.state is not JobState.WAITING:
            return Transition(replace(step, state=StepState.RUNNING))
        return Ignored("the step's state does not depend on it")
    open_jobs = step.open_jobs - 1
    if open_jobs < 0:
        return Ignored("every job of the step ended before")
    state = step.state
    if state not in TERMINAL:
        if event.state in (JobState.FAILED, JobState.STOPPED, JobState.SKIPPED):
            state = StepState(event.state)
        else:
            state = StepState.RUNNING if open_jobs else StepState.DONE
    after = replace(step, state=state, open_jobs=open_jobs)
    effects: list[Effect] = []
    if step.fail_fast and event.state is JobState.FAILED and open_jobs:
        effects.append(StopSiblings())
    newly = _is_told(after) and not _is_told(step)
    if newly or not open_jobs:
        effects.append(TellDependents(outcome(after) if newly else None, over=not open_jobs))
    return Transition(after, tuple(effects))


def outcome(step: Step) -> Outcome:
    """What a step whose state is terminal comes to for its dependents."""
    match step.state:
        case StepState.DONE:
            return Outcome.SUCCESS
        case StepState.FAILED if step.continue_on_failure:
            return Outcome.SUCCESS
        case StepState.SKIPPED if not step.need_failed:
            return Outcome.SKIPPED
        case _:
            return Outcome.FAILURE


def _is_told(step: Step) -> bool:
    """Whether dependents know the outcome."""
    return step.state in TERMINAL and (not step.open_jobs or outcome(step) is Outcome.FAILURE)


def _need_moved(step: Step, event: NeedMoved) -> Decision[Step]:
    if event.over and not step.unmet:
        return Ignored("every dependency was over before")
    after = _told(step, event)
    if step.state is not StepState.WAITING or after.verdict is None:
        return Transition(after)
    return Transition(after, (Release(after.verdict),))


def _told(step: Step, event: NeedMoved) -> Step:
    return replace(
        step,
        unmet=step.unmet - event.over,
        need_failed=step.need_failed or event.outcome is Outcome.FAILURE,
        need_skipped=step.need_skipped or event.outcome is Outcome.SKIPPED,
    )
