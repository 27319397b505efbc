"""What a server must hold after any history: the tables applied one by one, in memory, as plainly as can be.

`Reference` is written without a look at `services.apply`, which the same histories are held against.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from dstack.domain.lifecycle import Decision, Ignored, Refused, Release, TellDependents, Transition, attempt
from dstack.domain.lifecycle import job as job_table
from dstack.domain.lifecycle import run as run_table
from dstack.domain.lifecycle import step as step_table
from dstack.domain.lifecycle.attempt import Attempt, AttemptState
from dstack.domain.lifecycle.job import Intent, Job, JobEvent, JobState, Policy
from dstack.domain.lifecycle.run import Run, RunState
from dstack.domain.lifecycle.step import Step, StepState
from dstack.domain.reasons import Reason
from dstack.domain.rules import SUCCESS

PLAIN = Policy(max_unstarted=3)
RETRIES = replace(
    PLAIN, retry_on=frozenset({Reason.EXIT_CODE, Reason.RUNNER_LOST, Reason.PREEMPTED, Reason.TIMEOUT}), retry_max=2
)
RULES = (SUCCESS, SUCCESS, "failed()", "always()", "not failed()", "false")
POLICIES = (PLAIN, RETRIES, replace(RETRIES, retry_max=1, backoff=30.0))


@dataclass(frozen=True)
class StepSpec:
    """One step: the policies of its jobs, the earlier steps it needs, and when it runs."""

    policies: tuple[Policy, ...]
    needs: frozenset[int] = frozenset()
    rule: str = SUCCESS
    fail_fast: bool = False
    continue_on_failure: bool = False


Dag = tuple[StepSpec, ...]


@dataclass(frozen=True)
class Happening:
    """One event for one job, by its place in the run. `runner`: where a placement goes."""

    job: int
    event: JobEvent
    runner: int | None = None


@dataclass(frozen=True)
class Told:
    """A row of the events table."""

    kind: str
    index: int
    event: str
    before: str
    after: str
    attempt: int | None = None


@dataclass
class Reference:
    """The whole state of one run."""

    dag: Dag
    jobs: list[Job] = field(default_factory=list[Job])
    step_of: list[int] = field(default_factory=list[int])
    steps: list[Step] = field(default_factory=list[Step])
    run: Run = field(default_factory=lambda: Run(RunState.QUEUED))
    attempts: dict[tuple[int, int], Attempt] = field(default_factory=dict[tuple[int, int], Attempt])
    runner_of: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    late: dict[tuple[int, int], str] = field(default_factory=dict[tuple[int, int], str])
    story: list[Told] = field(default_factory=list[Told])
    _moved: list[tuple[int, JobState]] = field(default_factory=list[tuple[int, JobState]])

    def __post_init__(self) -> None:
        for number, spec in enumerate(self.dag):
            step = step_table.created(
                len(spec.policies),
                [self.steps[need] for need in sorted(spec.needs)],
                rule=spec.rule,
                fail_fast=spec.fail_fast,
                continue_on_failure=spec.continue_on_failure,
            )
            self.steps.append(step)
            self.jobs.extend(replace(step_table.first_job(step), policy=policy) for policy in spec.policies)
            self.step_of.extend([number] * len(spec.policies))
        if all(job.state in job_table.TERMINAL for job in self.jobs):
            self.run = Run(RunState.DONE)

    # --- changes -------------------------------------------------------------------------------------------------

    def apply(self, batch: Sequence[Happening], now: int) -> list[str]:
        """Decide a batch, then what follows for steps and dependents, then the run's roll-up once.

        Returns `applied`, `ignored` or `rejected` for each.
        """
        begun = self._rolled()
        answers = [self._job(happening, now) for happening in batch]
        while self._moved:
            self._step(*self._moved.pop(0), now)
        if self._rolled() != begun:
            self._roll_up(now)
        return answers

    def stop(self, abort: bool, now: int) -> str:
        """Ask the run and all its open jobs to stop."""
        decision = run_table.decide(self.run, run_table.StopAsked(abort), now)
        if isinstance(decision, Transition):
            self.story.append(Told("run", 0, "stop-asked", self.run.state, decision.after.state))
            self.run = decision.after
            open_ = [index for index, job in enumerate(self.jobs) if job.state not in job_table.TERMINAL]
            self.apply([Happening(index, job_table.StopAsked(abort)) for index in open_], now)
        return answer(decision)

    def _job(self, happening: Happening, now: int) -> str:
        index, before = happening.job, self.jobs[happening.job]
        decision = job_table.decide(before, happening.event, now)
        if isinstance(decision, Transition):
            self.jobs[index] = after = decision.after
            told = Told("job", index, name(happening.event), before.state, after.state, after.attempt or None)
            self.story.append(told)
            self._attempt(happening, before, decision)
            if after.state is not before.state:
                self._moved.append((index, after.state))
        elif isinstance(decision, Ignored) and decision.late:
            self.late[index, getattr(happening.event, "attempt")] = name(happening.event)  # noqa: B009 -- a union
        return answer(decision)

    def _attempt(self, happening: Happening, before: Job, move: Transition[Job]) -> None:
        live = attempt.of(before)
        if live is not None:
            key = (happening.job, live.number)
            assert self.attempts[key] == live, "the newest attempt is where its job is"
            following = attempt.follow(live, move)
            assert not isinstance(following, Refused), following
            if isinstance(following, Transition):
                self.attempts[key] = following.after
        elif move.after.attempt > before.attempt:
            key = (happening.job, move.after.attempt)
            assert key not in self.attempts, "a number is never used again"
            assert happening.runner is not None
            self.attempts[key] = Attempt(move.after.attempt)
            self.runner_of[key] = happening.runner

    def _step(self, index: int, moved_to: JobState, now: int) -> None:
        number = self.step_of[index]
        before = self.steps[number]
        decision = step_table.decide(before, step_table.JobMoved(moved_to), now)
        if not isinstance(decision, Transition):
            return
        self.steps[number] = after = decision.after
        if after.state is not before.state:
            self.story.append(Told("step", number, "job-moved", before.state, after.state))
        for sibling in self.jobs_of(number):
            failed_fast = self.dag[number].fail_fast and moved_to is JobState.FAILED
            if failed_fast and self.jobs[sibling].state not in job_table.TERMINAL:
                self._job(Happening(sibling, job_table.StopAsked()), now)
        for effect in decision.effects:
            if isinstance(effect, TellDependents):
                self._tell_dependents(number, effect, now)

    def _tell_dependents(self, ended: int, told: TellDependents, now: int) -> None:
        for number, spec in enumerate(self.dag):
            if ended not in spec.needs:
                continue
            decision = step_table.decide(self.steps[number], step_table.NeedMoved(told.outcome, told.over), now)
            if not isinstance(decision, Transition):
                continue
            self.steps[number] = decision.after
            for effect in decision.effects:
                if isinstance(effect, Release):
                    event = job_table.RuleTrue() if effect.begin else job_table.RuleFalse(spec.rule != SUCCESS)
                    for index in self.jobs_of(number):
                        if self.jobs[index].state is JobState.WAITING:
                            self._job(Happening(index, event), now)

    def _rolled(self) -> frozenset[JobState]:
        return frozenset(job.state for job in self.jobs)

    def _roll_up(self, now: int) -> None:
        before = self.run
        decision = run_table.decide(before, run_table.RollUp(self._rolled()), now)
        if isinstance(decision, Transition):
            self.run = decision.after
            self.story.append(Told("run", 0, "roll-up", before.state, self.run.state))

    # --- looks ---------------------------------------------------------------------------------------------------

    def jobs_of(self, step: int) -> Iterable[int]:
        return (index for index, number in enumerate(self.step_of) if number == step)

    def unmet(self, step: int) -> int:
        return sum(self.open_jobs(need) > 0 for need in self.dag[step].needs)

    def came_to(self, step: int) -> str:
        """What `step` is to its dependents by its own end and its dependencies', looked up without the table."""
        state = self.steps[step].state
        if state is StepState.SKIPPED:
            failed = any(self.came_to(need) == "failure" for need in self.dag[step].needs)
            return "failure" if failed and not self.skipped_by_constant(step) else "skipped"
        if state is StepState.DONE or (state is StepState.FAILED and self.dag[step].continue_on_failure):
            return "success"
        return "failure"

    def skipped_by_constant(self, step: int) -> bool:
        return self.dag[step].rule == "false"

    def open_jobs(self, step: int) -> int:
        return sum(self.jobs[index].state not in job_table.TERMINAL for index in self.jobs_of(step))

    def live_on(self, runner: int) -> list[tuple[int, int]]:
        """Attempts (job, number) placed on a runner and not ended."""
        return [
            key
            for key, found in self.attempts.items()
            if self.runner_of[key] == runner and found.state is not AttemptState.ENDED
        ]

    def _check_rule(self, number: int, states: set[JobState]) -> None:
        """A step begins after all it needs, exactly where its rule is true of what that came to."""
        spec = self.dag[number]
        over = not self.unmet(number)
        came_to = [self.came_to(need) for need in spec.needs] if over else []
        holds = {
            SUCCESS: all(item == "success" for item in came_to),
            "failed()": "failure" in came_to,
            "always()": True,
            "not failed()": "failure" not in came_to,
            "false": False,
        }[spec.rule]
        if states - {JobState.WAITING, JobState.SKIPPED, JobState.STOPPED}:
            assert over, "a step begins after the last job of what it needs"
            assert holds, f"{spec.rule} is false of {came_to}, and the step began"
        if states == {JobState.SKIPPED} and over:
            assert not holds, f"{spec.rule} is true of {came_to}, and the step was skipped"
        if over:
            assert JobState.WAITING not in states, "what is decided is acted on at once"

    @property
    def over(self) -> bool:
        return self.run.state in run_table.TERMINAL

    def check(self) -> None:
        """What holds at every moment, whatever happened before."""
        for index, job in enumerate(self.jobs):
            mine = [found for (owner, _), found in self.attempts.items() if owner == index]
            live = [found for found in mine if found.state is not AttemptState.ENDED]
            expected = attempt.of(job)
            assert live == ([] if expected is None else [expected]), "one attempt at a time holds the fence"
            assert [found.number for found in mine] == list(range(1, job.attempt + 1))
            if job.state in (JobState.WAITING, JobState.QUEUED):
                assert job.intent is Intent.NONE, "a stopped job never waits for another attempt"
        for number, step in enumerate(self.steps):
            assert (step.open_jobs, step.unmet) == (self.open_jobs(number), self.unmet(number))
            states = {self.jobs[index].state for index in self.jobs_of(number)}
            assert (step.state is StepState.DONE) == (states == {JobState.DONE})
            self._check_rule(number, states)
        rolled = run_table.roll_up(self._rolled())
        # A run that has begun stays running while its jobs wait for their next attempt.
        assert self.run.state is rolled or (self.run.state, rolled) == (RunState.RUNNING, RunState.QUEUED)


def answer(decision: Decision[Job] | Decision[Run]) -> str:
    return "applied" if isinstance(decision, Transition) else "ignored" if isinstance(decision, Ignored) else "rejected"


def name(event: object) -> str:
    """`SetupFailed` → `setup-failed`."""
    return "-".join(re.findall("[A-Z][a-z]*", type(event).__name__)).lower()
