"""The one place that changes states: a batch of events is decided, cascaded, and written in one transaction.

`Batch.job` decides single events in memory; `Batch.store` settles what follows from them (steps, dependents,
the run's roll-up) and writes everything: guarded updates of the rows read, the event rows, the attempts. A run is
locked before its jobs are read (PostgreSQL), or writers take turns (SQLite), so no row can change meanwhile; should
one have done so all the same, the transaction fails whole and the caller's message, safe to send twice, comes again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, exists, select

from dstack.domain.lifecycle import Ignored, Refused, Release, StopSiblings, TellDependents, Transition
from dstack.domain.lifecycle import job as job_table
from dstack.domain.lifecycle import run as run_table
from dstack.domain.lifecycle import step as step_table
from dstack.domain.lifecycle.job import JobEvent, JobState
from dstack.domain.lifecycle.run import RunState
from dstack.domain.ports import SECOND, Ids
from dstack.domain.rules import SUCCESS
from dstack.server.db.engine import Transaction
from dstack.server.db.prepared import Prepared
from dstack.server.db.tables import jobs
from dstack.server.db.types import Id
from dstack.server.services import rows, run_values
from dstack.server.services.attempt_rows import AttemptRows, seen_at
from dstack.server.services.facts import NO_FACTS, Facts, event_name
from dstack.server.services.rows import JobRow, RunRow, StepRow
from dstack.server.services.stored import condition_of
from dstack.server.services.story import story_of
from dstack.server.services.tags import set_asked_tags
from dstack.server.settings import Settings


@dataclass(frozen=True, slots=True)
class Answer:
    """`applied`, `ignored` or `rejected`, with the reason for the latter two.

    `save_again`: what the event refers to is not in the store, so its sender is to store it and send it once more.
    """

    outcome: str
    detail: str = ""
    save_again: bool = False


class Batch:
    """Transitions of the jobs of one project, decided together and stored by `store`."""

    def __init__(self, tx: Transaction, project_id: UUID, settings: Settings, ids: Ids) -> None:
        self.tx = tx
        self.project_id = project_id
        self.settings = settings
        self.ids = ids
        self.jobs: dict[UUID, JobRow] = {}
        self._jobs_of: dict[UUID, list[JobRow]] = {}
        """The same by step."""
        self.steps: dict[UUID, StepRow] = {}
        self.runs: dict[UUID, RunRow] = {}
        self._events: dict[UUID, list[dict[str, Any]]] = {}
        self._dirty_jobs: set[UUID] = set()
        self._dirty_steps: set[UUID] = set()
        self._dirty_runs: set[UUID] = set()
        self._moved: list[tuple[JobRow, JobState]] = []
        self._attempts = AttemptRows(tx, project_id)
        self._roll_up: set[UUID] = set()
        self._over: list[UUID] = []
        self._begun: set[UUID] = set()

    # --- loading ---------------------------------------------------------------------------------------------

    def load_jobs(self, ids: Iterable[UUID]) -> None:
        """Read job rows (and lock their runs on PostgreSQL) before events are decided on them."""
        wanted = [job_id for job_id in ids if job_id not in self.jobs]
        if wanted and self.tx.dialect == "postgresql":
            self.load_runs([row[0] for row in self._select(rows.RUNS_OF_JOBS, wanted)])
        self._keep_jobs(self._select(rows.JOBS_BY_ID, wanted))

    def load_free_jobs(self, ids: Sequence[UUID]) -> None:
        """`load_jobs`, but for those whose runs another holds: for who holds runs himself, and may not wait."""
        if self.tx.dialect == "postgresql":
            found = list(self._select(rows.JOBS_RUNS, ids))
            free = {run_id for (run_id,) in self._select(rows.FREE_RUNS, sorted({row[1] for row in found}))}
            ids = [job_id for job_id, run_id in found if run_id in free]
        self.load_jobs(ids)

    def load_jobs_of_steps(self, ids: Sequence[UUID]) -> None:
        self._keep_jobs(self._select(rows.JOBS_BY_STEP, ids))

    def load_runs(self, ids: Iterable[UUID]) -> None:
        wanted = sorted({run_id for run_id in ids if run_id not in self.runs})
        for row in self._select(rows.RUNS_BY_ID, wanted):
            self.runs[row[0]] = RunRow(*row)

    def _load_steps(self, ids: Iterable[UUID]) -> None:
        for row in self._select(rows.STEPS_BY_ID, [step_id for step_id in ids if step_id not in self.steps]):
            self.steps[row[0]] = StepRow(*row)

    def _select(self, statement: Prepared, ids: Sequence[UUID]) -> Iterable[Any]:
        """Rows of a statement for `ids`, in pieces that every database takes as bound parameters."""
        for start in range(0, len(ids), _PART):
            part = {"project": self.project_id, "ids": ids[start : start + _PART]}
            yield from self.tx.rows(statement, part)

    def _keep_jobs(self, found: Iterable[Any]) -> None:
        for row in found:
            if row[0] not in self.jobs:
                self.jobs[row[0]] = job = JobRow(*row)
                self._jobs_of.setdefault(job.step_id, []).append(job)

    # --- deciding --------------------------------------------------------------------------------------------

    def job(self, job_id: UUID, event: JobEvent, facts: Facts = NO_FACTS) -> Answer:
        """Decide one event on a loaded job; nothing is written before `store`."""
        row = self.jobs.get(job_id)
        if row is None:
            return Answer("rejected", f"job {job_id} does not exist")
        before = row.domain(self.settings.max_unstarted)
        decision = job_table.decide(before, event, self.tx.now)
        if isinstance(decision, Ignored):
            if decision.late:
                self._attempts.note_late(row, event)
            return Answer("ignored", decision.why)
        if isinstance(decision, Refused):
            return Answer(
                "rejected",
                f"{decision.why}\n{story_of(self.tx, self.project_id, row, self._events.get(row.run_id, ()))}",
            )
        row.take(decision.after)
        self._dirty_jobs.add(job_id)
        self._record(row, before, event, facts)
        self._attempts.settle(row, before, event, decision, facts)
        self._stamp(row, before, event, facts)
        if row.state != before.state:
            self._moved.append((row, decision.after.state))
        return Answer("applied")

    def run(self, run_id: UUID, event: run_table.RunEvent, facts: Facts = NO_FACTS) -> Answer:
        """Decide one event on a loaded run."""
        row = self.runs.get(run_id)
        if row is None:
            return Answer("rejected", f"run {run_id} does not exist")
        before = row.domain()
        decision = run_table.decide(before, event, self.tx.now)
        if not isinstance(decision, Transition):
            return Answer("ignored" if isinstance(decision, Ignored) else "rejected", decision.why)
        after = decision.after
        row.state, row.intent = after.state.value, after.intent.value
        row.reason = after.reason.value if after.reason else row.reason
        if after.intent != before.intent:
            row.intent_by, row.intent_at, row.intent_why = facts.actor, self.tx.now, facts.why
        self._dirty_runs.add(run_id)
        self._event(
            row.id, "run", row.id, event_name(event), before.state, after.state, None, facts.actor, facts.detail
        )
        if after.state in run_table.TERMINAL:
            row.finished_at, row.deadline_at = max(self.tx.now, row.started_at or row.submitted_at), None
            row.detail = facts.detail or row.detail
            self._over.append(run_id)
        elif after.state is RunState.RUNNING and row.started_at is None:
            row.started_at = max(self.tx.now, row.submitted_at)
        return Answer("applied")

    def roll_up(self, run_id: UUID) -> None:
        """Let `store` look at the run's end, though none of its jobs moved: it may have none that will."""
        self._roll_up.add(run_id)

    def _record(self, row: JobRow, before: job_table.Job, event: JobEvent, facts: Facts) -> None:
        if row.intent != before.intent:
            row.intent_by, row.intent_at, row.intent_why = facts.actor, self.tx.now, facts.why
        if isinstance(event, job_table.Placed):
            # What was said of the attempt before is not said of this one.
            row.detail, row.signal, row.log_incomplete = None, None, False
        if row.state == JobState.FAILED and row.unstarted > before.unstarted > 0:
            told = f"placed {row.unstarted} times, and lost each time before it started"
            facts = replace(facts, detail=f"{told}; at last {facts.detail}" if facts.detail else told)
        if facts.detail is not None or (isinstance(event, job_table.StopAsked) and row.state != before.state):
            row.detail = facts.detail
        if facts.signal is not None:
            row.signal = facts.signal
        if facts.log_incomplete:
            row.log_incomplete = True
        self._event(
            row.run_id, "job", row.id, event_name(event), before.state, row.state,
            row.attempt or None, facts.actor, facts.detail,
        )  # fmt: skip

    def _event(
        self, run_id: UUID, kind: str, object_id: UUID, event: str, before: str | None, after: str,
        attempt: int | None, actor: str | None, detail: str | None,
    ) -> None:  # fmt: skip
        self._events.setdefault(run_id, []).append(
            {
                "project_id": self.project_id, "run_id": run_id, "at": self.tx.now, "kind": kind,
                "object_id": object_id, "event": event, "before": before, "after": after,
                "attempt": attempt, "actor": actor, "detail": detail,
            }
        )  # fmt: skip

    def _stamp(self, row: JobRow, before: job_table.Job, event: JobEvent, facts: Facts) -> None:
        """Times and the deadline that go with the state entered."""
        if row.state == before.state:
            return
        now, at = self.tx.now, seen_at(row, facts, self.tx.now)
        row.deadline_at = None
        if before.state in ("assigned", "starting") and isinstance(event, _TELLS_OF_START):
            row.started_at = at
        match row.state:
            case "queued":
                row.queued_at = max(now, row.submitted_at)
                row.deadline_at = row.not_before
                self._tell_of_deadline(row)
            case "assigned":
                row.deadline_at = now + int(self.settings.assigned_lost_after * SECOND)
            case "starting":
                row.deadline_at = now + int(self.settings.setup_deadline * SECOND)
            case "running":
                timeout = row.stored_policy().timeout
                row.deadline_at = None if timeout is None else now + int(timeout * SECOND)
                self._tell_of_deadline(row)
            case "saving":
                row.deadline_at = now + int(self.settings.save_deadline * SECOND)
                self.tx.notify("place")
            case _:
                row.finished_at = at

    def _tell_of_deadline(self, row: JobRow) -> None:
        """Wake the sweep for a deadline that may come before its next tick; the others are hours away."""
        if row.deadline_at is not None and row.deadline_at < self.tx.now + int(self.settings.tick * SECOND):
            self.tx.notify("deadlines")

    # --- settling and storing --------------------------------------------------------------------------------

    def store(self) -> None:
        """Follow every move to steps, dependents and runs, then write all of it."""
        self._follow_moves()
        if not (self._dirty_jobs or self._dirty_runs or self._attempts.late):
            return
        self.load_runs(set(self._events) | self._roll_up)
        # A run that is running stays so while no job ends: only its first job's begin needs a look.
        self._roll_up.update(run_id for run_id in self._begun if self.runs[run_id].state == RunState.QUEUED)
        self._write(rows.UPDATE_JOBS, [self.jobs[key] for key in self._dirty_jobs])
        self._write(rows.UPDATE_STEPS, [self.steps[key] for key in self._dirty_steps])
        self._attempts.write()
        for run_id in self._roll_up:
            self._roll_up_run(run_id)
        self._write_events()
        self._write(rows.UPDATE_RUNS, [self.runs[key] for key in self._dirty_runs | set(self._events)])
        run_values.forget(self.tx, self.project_id, self._over)
        for run_id in self._events:
            self.tx.notify(f"run:{run_id.hex}")

    def _follow_moves(self) -> None:
        done = 0
        while done < len(self._moved):
            moves = self._moved[done:]
            done = len(self._moved)
            self._load_steps({row.step_id for row, state in moves if state in _MOVES_STEP})
            told: list[tuple[StepRow, TellDependents]] = []
            for row, state in moves:
                if state is JobState.QUEUED:
                    self.tx.notify("place")
                    if row.rejections:
                        self.tx.notify("unfit")
                if state in job_table.TERMINAL:
                    self._roll_up.add(row.run_id)
                elif state is not JobState.QUEUED:
                    self._begun.add(row.run_id)
                if state not in _MOVES_STEP:
                    continue
                told += self._move_step(row, state)
            if told:
                self._tell_dependents(told)

    def _move_step(self, row: JobRow, state: JobState) -> list[tuple[StepRow, TellDependents]]:
        """Follow a job's move to its step; returns what the step's dependents have to be told."""
        step = self.steps[row.step_id]
        before = step.domain()
        decision = step_table.decide(before, step_table.JobMoved(state), self.tx.now)
        if not isinstance(decision, Transition):
            return []
        step.take(decision.after)
        self._dirty_steps.add(step.id)
        if step.state != before.state:
            self._event(step.run_id, "step", step.id, "job-moved", before.state, step.state, None, None, None)
        if StopSiblings() in decision.effects:
            self._stop_siblings(row)
        return [(step, effect) for effect in decision.effects if isinstance(effect, TellDependents)]

    def _stop_siblings(self, failed: JobRow) -> None:
        self.load_jobs_of_steps([failed.step_id])
        facts = Facts(actor=f"fail-fast ({failed.name} failed)")
        for row in self._jobs_of[failed.step_id]:
            if row.state not in job_table.TERMINAL:
                self.job(row.id, job_table.StopAsked(), facts)

    def _tell_dependents(self, told: list[tuple[StepRow, TellDependents]]) -> None:
        """What steps came to, for the rules of those that depend on them."""
        by_id: dict[UUID, list[tuple[StepRow, TellDependents]]] = {}
        for step, effect in told:
            by_id.setdefault(step.id, []).append((step, effect))
        edges = [(row[0], row[1]) for row in self._select(rows.DEPENDENTS, list(by_id))]
        self._load_steps({dependent for dependent, _ in edges})
        ready: dict[UUID, tuple[bool, str]] = {}
        for dependent_id, needs_id in edges:
            dependent = self.steps[dependent_id]
            for needs, effect in by_id[needs_id]:
                moved = step_table.NeedMoved(effect.outcome, effect.over)
                decision = step_table.decide(dependent.domain(), moved, self.tx.now)
                if not isinstance(decision, Transition):
                    continue
                dependent.take(decision.after)
                self._dirty_steps.add(dependent_id)
                for release in decision.effects:
                    if isinstance(release, Release):
                        ready.setdefault(dependent_id, (release.begin, needs.name))
        if ready:
            self._release(ready)

    def _release(self, ready: Mapping[UUID, tuple[bool, str]]) -> None:
        """Let the jobs of steps begin, or skip them; with the dependency whose end decided it."""
        self.load_jobs_of_steps(list(ready))
        conditions = self._conditions([step_id for step_id, (begin, _) in ready.items() if not begin])
        for step_id, (begin, needs) in ready.items():
            condition = conditions.get(step_id)
            event = job_table.RuleTrue() if begin else job_table.RuleFalse(condition is not None)
            facts = NO_FACTS if begin else Facts(detail=needs if condition is None else condition)
            for row in self._jobs_of.get(step_id, ()):
                if row.state == JobState.WAITING:
                    self.job(row.id, event, facts)

    def _conditions(self, ids: list[UUID]) -> dict[UUID, str]:
        """What the `if:` of those steps says that have one."""
        own = [step_id for step_id in ids if self.steps[step_id].rule != SUCCESS]
        return {row[0]: condition_of(row[1]) for row in self._select(rows.PLANS_BY_ID, own)}

    def _roll_up_run(self, run_id: UUID) -> None:
        row = self.runs[run_id]
        (found,) = self.tx.rows(_STATES_PRESENT, {"project": self.project_id, "run": run_id})
        states = frozenset(state for state, present in zip(JobState, found, strict=True) if present)
        self.run(run_id, run_table.RollUp(states))
        if row.state in ("failed", "stopped") and row.root_job_id is None:
            root = self.tx.execute(
                select(jobs.c.id, jobs.c.reason, jobs.c.detail)
                .where(jobs.c.project_id == self.project_id, jobs.c.run_id == run_id, jobs.c.state == row.state)
                .order_by(jobs.c.finished_at, jobs.c.id)
                .limit(1)
            ).one()
            row.root_job_id, row.reason, row.detail = root
        elif row.state == "done" and row.reason is None:
            row.reason = "exit-zero"
            set_asked_tags(self.tx, self.project_id, self.ids, run_id)
        if row.state in ("done", "failed", "stopped"):
            self.tx.notify("run-ended")

    def _write(self, statement: Prepared, found: Sequence[JobRow | StepRow | RunRow]) -> None:
        if not found:
            return
        values = [rows.parameters(self.project_id, row) for row in found]
        if self.tx.change(statement, values) != len(values):
            # Runs are locked (PostgreSQL) or writers take turns (SQLite), so a stale row means a writer that
            # went round `Batch`: nothing of this transaction may stay.
            raise StaleRow(f"{len(values)} rows were read, fewer could be written: {type(found[0]).__name__}")

    def _write_events(self) -> None:
        written: list[dict[str, Any]] = []
        for run_id, found in self._events.items():
            row = self.runs[run_id]
            for number, event in enumerate(found, row.seq + 1):
                event["seq"] = number
            row.seq += len(found)
            written.extend(found)
        if written:
            self.tx.change(rows.INSERT_EVENTS, written)


class StaleRow(Exception):
    """A row changed between its read and its guarded write; the transaction is rolled back and tried again."""


_TELLS_OF_START = (job_table.Started, job_table.Exited, job_table.Saved, job_table.SaveFailed)
"""Events that only an attempt which has started can cause."""

_OF_RUN = (jobs.c.project_id == bindparam("project", type_=Id), jobs.c.run_id == bindparam("run", type_=Id))
_STATES_PRESENT = Prepared(
    select(*[exists(select(jobs.c.id).where(*_OF_RUN, jobs.c.state == state.value)) for state in JobState])
)
"""For each job state, whether the run has a job in it: one index probe each, whatever the size of the run."""

_PART = 500
_MOVES_STEP = job_table.TERMINAL | {JobState.QUEUED}
"""The job states that a step's own state depends on."""
