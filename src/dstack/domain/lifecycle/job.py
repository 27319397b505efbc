"""The job's table. States: waiting queued assigned starting running saving → done failed stopped skipped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from dstack.domain.lifecycle import (
    BeginAttempt,
    Decision,
    Effect,
    EndAttempt,
    Ignored,
    MarkPartial,
    Recall,
    Refused,
    Signal,
    Transition,
)
from dstack.domain.lifecycle.job_events import (
    Accepted,
    AttemptEvent,
    Exited,
    JobEvent,
    Lost,
    Placed,
    Rejected,
    Returned,
    RuleFalse,
    RuleTrue,
    Saved,
    SaveFailed,
    SetupFailed,
    Started,
    StopAsked,
    TimeLimit,
    Unsatisfiable,
)
from dstack.domain.ports import SECOND
from dstack.domain.reasons import END_STATE, MAY_RETRY, Reason, of_exit

LONGEST_BACKOFF = 300.0
"""Seconds: doubling stops here, so that a job preempted all night does not sleep through the morning."""


class JobState(StrEnum):
    WAITING = "waiting"
    QUEUED = "queued"
    ASSIGNED = "assigned"
    STARTING = "starting"
    RUNNING = "running"
    SAVING = "saving"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"
    SKIPPED = "skipped"


TERMINAL = frozenset({JobState.DONE, JobState.FAILED, JobState.STOPPED, JobState.SKIPPED})
LIVE_ATTEMPT = frozenset({JobState.ASSIGNED, JobState.STARTING, JobState.RUNNING, JobState.SAVING})
"""States in which the current attempt is alive."""


class Intent(StrEnum):
    NONE = ""
    STOP = "stop"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class Policy:
    """What a workflow says about retries. `backoff` is seconds before the first retry, doubled each time
    up to `LONGEST_BACKOFF`."""

    retry_on: frozenset[Reason] = frozenset()
    retry_max: int = 0
    backoff: float = 1.0
    max_rejections: int = 5
    max_unstarted: int = 10
    """Attempts in a row that may be lost before they started. They count against no retry, and end all the same."""


@dataclass(frozen=True, slots=True)
class Job:
    """What the table needs to know of a job."""

    state: JobState
    intent: Intent = Intent.NONE
    attempt: int = 0
    """Number of the newest attempt: the fence. 0 before the first."""
    counted: int = 0
    """Attempts that started: only they count against `retry_max`."""
    rejections: int = 0
    unstarted: int = 0
    """Attempts that were lost before they started, since the last one that did."""
    outcome: Reason | None = None
    """Fixed at exit (a time limit fixes it when it strikes)."""
    exit_code: int | None = None
    reason: Reason | None = None
    not_before: int | None = None
    artifacts_incomplete: bool = False
    policy: Policy = Policy()


# --- deciding --------------------------------------------------------------------------------------------------


def created(*, unmet: bool, reused: bool = False, skipped: Reason | None = None) -> Job:
    """A new job: done when reused from another run, skipped for a reason that planning knows, waiting with unmet
    dependencies, else queued."""
    if reused:
        return Job(JobState.DONE, reason=Reason.REUSED)
    if skipped is not None:
        return Job(JobState.SKIPPED, reason=skipped)
    return Job(JobState.WAITING if unmet else JobState.QUEUED)


def uploaded() -> Job:
    """The job of a run that is made of a person's own files: there is nothing to do."""
    return Job(JobState.DONE, reason=Reason.UPLOADED)


def decide(job: Job, event: JobEvent, now: int) -> Decision[Job]:
    """The job's next value for `event`; `now` (microseconds UTC) dates a back-off and nothing else."""
    if isinstance(event, StopAsked):
        return _stop(job, event)
    if not isinstance(event, (RuleTrue, RuleFalse, Placed, Unsatisfiable)):
        stale = _stale(job, event)
        if stale is not None:
            return stale
    elif job.state in TERMINAL:
        return Ignored(f"the job is {job.state} already")
    return _TABLE[type(event)](job, event, now)


def backs_off(not_before: int | None, now: int) -> bool:
    """Whether a queued job still waits for its back-off. One that seems longer than any can be is over: the clock
    was set back."""
    return not_before is not None and 0 < not_before - now <= LONGEST_BACKOFF * SECOND


def _stale(job: Job, event: AttemptEvent) -> Ignored | Refused | None:
    """The answer to a message of an attempt that is not the live one, or None when it is the live one."""
    if not 1 <= event.attempt <= job.attempt:
        return Refused(f"attempt {event.attempt} does not exist; the newest is {job.attempt}")
    if event.attempt < job.attempt:
        return Ignored(f"attempt {event.attempt} is over; the newest is {job.attempt}", late=True)
    if job.state not in LIVE_ATTEMPT:
        return Ignored(f"attempt {event.attempt} is over; the job is {job.state}", late=True)
    return None


def _stop(job: Job, event: StopAsked) -> Decision[Job]:
    if job.state in TERMINAL:
        return Ignored("already finished")
    intent = Intent.ABORT if event.abort or job.intent is Intent.ABORT else Intent.STOP
    if job.state in (JobState.WAITING, JobState.QUEUED):
        reason = Reason.ABORTED if intent is Intent.ABORT else Reason.STOPPED
        return Transition(replace(job, state=JobState.STOPPED, intent=intent, reason=reason))
    if job.intent is intent:
        return Ignored(f"{intent} was asked already")
    effect: Effect = Recall() if job.state is JobState.ASSIGNED else Signal(abort=intent is Intent.ABORT)
    effects = () if job.state is JobState.SAVING and intent is Intent.STOP else (effect,)
    return Transition(replace(job, intent=intent), effects)


def _rule_true(job: Job, event: JobEvent, now: int) -> Decision[Job]:
    if job.state is JobState.WAITING:
        return Transition(replace(job, state=JobState.QUEUED))
    return Ignored(f"the job is {job.state} already")


def _rule_false(job: Job, event: JobEvent, now: int) -> Decision[Job]:
    assert isinstance(event, RuleFalse)
    if job.state is JobState.WAITING:
        reason = Reason.CONDITION if event.condition else Reason.DEPENDENCY
        return Transition(replace(job, state=JobState.SKIPPED, reason=reason))
    return Refused(f"the job's dependencies were met before: it is {job.state}")


def _placed(job: Job, event: JobEvent, now: int) -> Decision[Job]:
    if job.state is not JobState.QUEUED:
        return Ignored(f"the job is {job.state}, not queued")
    if backs_off(job.not_before, now):
        return Ignored("the job backs off")
    number = job.attempt + 1
    after = replace(
        job, state=JobState.ASSIGNED, attempt=number, outcome=None, exit_code=None, not_before=None, reason=None
    )
    return Transition(after, (BeginAttempt(number),))


def _unsatisfiable(job: Job, event: JobEvent, now: int) -> Decision[Job]:
    if job.state is JobState.QUEUED:
        return Transition(replace(job, state=JobState.FAILED, reason=Reason.NO_CAPACITY))
    return Ignored(f"the job is {job.state}, not queued")


def _accepted(job: Job, event: JobEvent, now: int) -> Decision[Job]:
    if job.state is not JobState.ASSIGNED:
        return Ignored("accepted before")
    if job.intent is not Intent.NONE:
        return _stopped(job)
    return Transition(replace(job, state=JobState.STARTING))


def _rejected(job: Job, event: JobEvent, now: int) -> Decision[Job]:
    if job.state is not JobState.ASSIGNED:
        return Refused(f"the runner accepted this attempt before: the job is {job.state}")
    if job.intent is not Intent.NONE:
        return _stopped(job)
    end = EndAttempt(job.attempt, "rejected")
    rejections = job.rejections + 1
    if rejections >= job.policy.max_rejections:
        after = replace(job, state=JobState.FAILED, reason=Reason.RUNNER_REJECTED, rejections=rejections)
        return Transition(after, (end,))
    not_before = _back_off(job.policy, rejections - 1, now)
    return Transition(replace(job, state=JobState.QUEUED, rejections=rejections, not_before=not_before), (end,))


def _returned(job: Job, event: JobEvent, now: int) -> Decision[Job]:
    assert isinstance(event, (Returned, Lost))
    if job.state is not JobState.ASSIGNED:
        return Refused(f"the runner accepted this attempt before: the job is {job.state}")
    if job.intent is not Intent.NONE:
        return _stopped(job)
    end = EndAttempt(job.attempt, "returned")
    if isinstance(event, Returned) and event.recalled:
        return Transition(replace(job, state=JobState.QUEUED), (end,))
    unstarted = job.unstarted + 1
    if unstarted >= job.policy.max_unstarted:
        after = replace(job, state=JobState.FAILED, reason=Reason.RUNNER_LOST, unstarted=unstarted)
        return Transition(after, (end,))
    return Transition(replace(job, state=JobState.QUEUED, unstarted=unstarted), (end,))


def _started(job: Job, event: JobEvent, now: int) -> Decision[Job]:
    if job.state not in (JobState.ASSIGNED, JobState.STARTING):
        return Ignored("started before")
    if job.intent is not Intent.NONE:
        return _stopped(job)
    return Transition(replace(job, state=JobState.RUNNING, counted=job.counted + 1, unstarted=0))


def _setup_failed(job: Job, event: JobEvent, now: int) -> Decision[Job]:
    assert isinstance(event, SetupFailed)
    if job.state not in (JobState.ASSIGNED, JobState.STARTING):
        return Refused(f"the attempt was set up before: the job is {job.state}")
    return _retry_or_end(job, Reason.SETUP_TIMEOUT if event.timeout else Reason.SETUP_FAILED, now)


def _time_limit(job: Job, event: JobEvent, now: int) -> Decision[Job]:
    if job.state is not JobState.RUNNING:
        return Ignored(f"the job is {job.state}, not running")
    if job.outcome is not None or job.intent is not Intent.NONE:
        return Ignored("the job is being ended already")
    return Transition(replace(job, outcome=Reason.TIMEOUT), (Signal(abort=False),))


def _exited(job: Job, event: JobEvent, now: int) -> Decision[Job]:
    assert isinstance(event, Exited)
    if job.state is JobState.SAVING:
        return Ignored("exited before")
    if job.state is not JobState.RUNNING:
        if job.intent is not Intent.NONE:
            return _stopped(job)
        job = replace(job, counted=job.counted + 1, unstarted=0)
    if event.aborted or job.intent is Intent.ABORT:
        # `aborted` without the intent: this database was restored from before the abort. Nothing will be saved.
        after = replace(job, state=JobState.STOPPED, reason=Reason.ABORTED, exit_code=event.exit_code)
        return Transition(after, (MarkPartial(), EndAttempt(job.attempt, Reason.ABORTED)))
    outcome = job.outcome or of_exit(event.exit_code, event.oom)
    if job.intent is not Intent.NONE:
        outcome = Reason.STOPPED
    return Transition(replace(job, state=JobState.SAVING, outcome=outcome, exit_code=event.exit_code))


def _saved(job: Job, event: JobEvent, now: int) -> Decision[Job]:
    assert isinstance(event, Saved)
    job, early = _with_exit(job, event, now)
    if early is not None:
        return early
    assert job.outcome is not None
    return _retry_or_end(job, job.outcome, now)


def _save_failed(job: Job, event: JobEvent, now: int) -> Decision[Job]:
    assert isinstance(event, SaveFailed)
    job, early = _with_exit(job, event, now)
    return early or _end_unsaved(job)


def _with_exit(job: Job, event: Saved | SaveFailed, now: int) -> tuple[Job, Decision[Job] | None]:
    """The job in `saving`, which the exit inside the event implies; or the decision that the exit itself gives."""
    if job.state is JobState.SAVING:
        return job, None
    if event.exit is None:
        return job, Refused(f"the save is over, but its exit was never told: the job is {job.state}")
    implied = _exited(job, event.exit, now)
    if isinstance(implied, Transition) and implied.after.state is JobState.SAVING:
        return implied.after, None
    return job, implied


def _lost(job: Job, event: JobEvent, now: int) -> Decision[Job]:
    assert isinstance(event, Lost)
    if job.state is JobState.ASSIGNED:
        return _returned(job, event, now)
    if job.state is JobState.SAVING:
        return _end_unsaved(job)
    if job.state is JobState.STARTING and job.intent is Intent.NONE:
        job = replace(job, unstarted=job.unstarted + 1)
    # A time limit that struck was seen first: losing the runner afterwards does not overwrite it.
    return _retry_or_end(job, job.outcome or (Reason.PREEMPTED if event.preempted else Reason.RUNNER_LOST), now)


def _end_unsaved(job: Job) -> Decision[Job]:
    """The end of an attempt whose artifacts did not all reach the store: never retried by itself."""
    assert job.outcome is not None
    lost_work = job.outcome is Reason.EXIT_ZERO
    reason = Reason.ARTIFACT_SAVE if lost_work else job.outcome
    after = replace(job, state=JobState(END_STATE[reason]), reason=reason, artifacts_incomplete=True)
    return Transition(after, (MarkPartial(), EndAttempt(job.attempt, reason)))


def _stopped(job: Job) -> Transition[Job]:
    """The end of an attempt that stop or abort overtook before its exit was told."""
    reason = Reason.ABORTED if job.intent is Intent.ABORT else Reason.STOPPED
    after = replace(job, state=JobState.STOPPED, reason=reason)
    return Transition(after, (MarkPartial(), EndAttempt(job.attempt, reason)))


def _retry_or_end(job: Job, reason: Reason, now: int) -> Transition[Job]:
    """stopped if stop was asked and the outcome is not fixed; queued where the policy covers it; else the end."""
    if job.intent is not Intent.NONE and job.state is not JobState.SAVING:
        return _stopped(job)
    end = EndAttempt(job.attempt, reason)
    partial: tuple[Effect, ...] = () if reason is Reason.EXIT_ZERO else (MarkPartial(),)
    policy = job.policy
    if (
        job.intent is Intent.NONE
        and MAY_RETRY[reason]
        and reason in policy.retry_on
        and job.counted <= policy.retry_max
        and job.unstarted < policy.max_unstarted
    ):
        not_before = _back_off(policy, max(job.counted - 1, 0), now)
        after = replace(job, state=JobState.QUEUED, outcome=None, not_before=not_before)
        return Transition(after, (*partial, end))
    return Transition(replace(job, state=JobState(END_STATE[reason]), reason=reason), (*partial, end))


def _back_off(policy: Policy, doublings: int, now: int) -> int:
    return now + int(min(policy.backoff * 2.0 ** min(doublings, 60), LONGEST_BACKOFF) * SECOND)


_TABLE: dict[type[JobEvent], Callable[[Job, JobEvent, int], Decision[Job]]] = {
    RuleTrue: _rule_true,
    RuleFalse: _rule_false,
    Placed: _placed,
    Unsatisfiable: _unsatisfiable,
    Accepted: _accepted,
    Rejected: _rejected,
    Returned: _returned,
    Started: _started,
    SetupFailed: _setup_failed,
    TimeLimit: _time_limit,
    Exited: _exited,
    Saved: _saved,
    SaveFailed: _save_failed,
    Lost: _lost,
}
