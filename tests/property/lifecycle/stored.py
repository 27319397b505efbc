"""The same run as rows of a database, changed by `services.apply` alone and compared with the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from sqlalchemy import Table, insert, select

from dstack.domain.lifecycle import run as run_table
from dstack.domain.lifecycle.job import Job, Policy, StopAsked
from dstack.domain.lifecycle.step import Step
from dstack.domain.resources import Requirements
from dstack.server.db.engine import Database, Transaction, declare_write
from dstack.server.db.tables import attempts, events, jobs, runs, step_needs, steps
from dstack.server.services.apply import Batch
from dstack.server.services.facts import Facts
from dstack.server.services.rows import JobRow, StepRow, StoredPolicy
from dstack.server.services.stored import StoredPlan, encode_need
from dstack.server.settings import Settings
from tests.property.lifecycle.model import PLAIN, Dag, Happening, Reference, Told
from tests.support.ports import FakeClock, FakeIds

WRITE = declare_write("test.lifecycle")
NEED = encode_need(Requirements())
T = TypeVar("T")


class Stored:
    """A run in a project of its own. Every change is made here first, then to the reference, at the same time."""

    def __init__(self, dag: Dag, database: Database, clock: FakeClock, ids: FakeIds) -> None:
        self.state = Reference(dag)
        self._database = database
        self._clock = clock
        self._ids = ids
        self._settings = Settings(home=Path("/nonexistent"), max_unstarted=PLAIN.max_unstarted)
        self.project = self._new()
        self.run_id = self._new()
        self.runners = [self._new(), self._new()]
        self.steps = [self._new() for _ in dag]
        self.jobs = [self._new() for _ in self.state.jobs]
        self._versions: dict[UUID, int] = {}
        self.write(self._insert)

    def write(self, work: Callable[[Transaction], T]) -> T:
        """A transaction at the time of the fake clock, on PostgreSQL too."""

        def at_our_time(tx: Transaction) -> T:
            tx._now = self._clock.now()
            return work(tx)

        return self._database.write(WRITE, at_our_time)

    def batch(self, tx: Transaction) -> Batch:
        return Batch(tx, self.project, self._settings, self._ids)

    # --- changes -------------------------------------------------------------------------------------------------

    def apply(self, batch: Sequence[Happening]) -> list[str]:
        def work(tx: Transaction) -> list[str]:
            stored = self.batch(tx)
            stored.load_jobs({self.jobs[happening.job] for happening in batch})
            answers = [self._one(stored, happening) for happening in batch]
            stored.store()
            return answers

        answers = self.write(work)
        assert answers == self.state.apply(batch, self._clock.now())
        return answers

    def _one(self, stored: Batch, happening: Happening) -> str:
        facts = Facts()
        if happening.runner is not None:
            facts = Facts(runner_id=self.runners[happening.runner], attempt_id=self._new())
        return stored.job(self.jobs[happening.job], happening.event, facts).outcome

    def stop(self, abort: bool) -> str:
        def work(tx: Transaction) -> str:
            stored = self.batch(tx)
            stored.load_runs([self.run_id])
            outcome = stored.run(self.run_id, run_table.StopAsked(abort), Facts(actor="ada")).outcome
            if outcome == "applied":
                stored.load_jobs(self.jobs)
                for job_id, job in zip(self.jobs, self.state.jobs, strict=True):
                    if job.state not in ("done", "failed", "stopped", "skipped"):
                        stored.job(job_id, StopAsked(abort), Facts(actor="ada"))
                stored.store()
            return outcome

        outcome = self.write(work)
        assert outcome == self.state.stop(abort, self._clock.now())
        return outcome

    def crash(self) -> None:
        """A batch that was not committed leaves nothing: `check` sees."""

        def work(tx: Transaction) -> None:
            stored = self.batch(tx)
            stored.load_jobs(self.jobs)
            for job_id in self.jobs:
                stored.job(job_id, StopAsked(abort=True), Facts(actor="nobody"))
            stored.store()
            raise _Killed

        try:
            self.write(work)
        except _Killed:
            pass  # as meant

    # --- looks ---------------------------------------------------------------------------------------------------

    def check(self) -> None:
        self.state.check()
        self._database.read(self._compare)

    def _compare(self, tx: Transaction) -> None:
        state = self.state
        found = {row.id: row for row in self._rows(tx, jobs)}
        assert [_domain(found[job_id]) for job_id in self.jobs] == state.jobs
        for job_id, job in zip(self.jobs, state.jobs, strict=True):
            assert (found[job_id].finished_at is not None) == (job.state in ("done", "failed", "stopped", "skipped"))
        held = {row.id: row for row in self._rows(tx, steps)}
        assert [_step(held[step_id]) for step_id in self.steps] == state.steps
        for job_id, number in zip(self.jobs, state.step_of, strict=True):
            if found[job_id].reason == "condition" and found[job_id].detail is not None:
                assert found[job_id].detail == f"the condition of s{number}"
        (run,) = self._rows(tx, runs)
        assert (run.state, run.intent) == (state.run.state, state.run.intent)
        self._compare_attempts(tx)
        self._compare_events(tx, run.seq)
        self._compare_versions([*found.values(), *held.values(), run])

    def _compare_attempts(self, tx: Transaction) -> None:
        index = {job_id: number for number, job_id in enumerate(self.jobs)}
        made = {(index[row.job_id], row.number): row for row in self._rows(tx, attempts)}
        assert {key: (row.state, row.outcome) for key, row in made.items()} == {
            key: (found.state, found.outcome) for key, found in self.state.attempts.items()
        }
        for key, row in made.items():
            assert row.runner_id == self.runners[self.state.runner_of[key]]
            assert row.late_event == self.state.late.get(key)
            assert (row.ended_at is not None) == (row.state == "ended")

    def _compare_events(self, tx: Transaction, seq: int) -> None:
        written = sorted(self._rows(tx, events), key=lambda row: row.seq)
        assert [row.seq for row in written] == list(range(1, seq + 1)), "an event's number is never left out"
        index = {row_id: number for ids in (self.jobs, self.steps, [self.run_id]) for number, row_id in enumerate(ids)}
        told = [Told(row.kind, index[row.object_id], row.event, row.before, row.after, row.attempt) for row in written]
        for kind in ("job", "step", "run"):
            assert sorted_by_object(told, kind) == sorted_by_object(self.state.story, kind), "folding loses no event"

    def _compare_versions(self, found: Sequence[Any]) -> None:
        now = {row.id: row.version for row in found}
        for row_id, version in self._versions.items():
            assert now[row_id] >= version, "a version never goes back"
        self._versions = now

    def _rows(self, tx: Transaction, table: Table) -> Sequence[Any]:
        return tx.execute(select(table).where(table.c.project_id == self.project)).all()

    # --- the rows ------------------------------------------------------------------------------------------------

    def _new(self) -> UUID:
        return self._ids.new(self._clock.now())

    def _insert(self, tx: Transaction) -> None:
        state, of_run = self.state, {"project_id": self.project, "run_id": self.run_id}
        tx.execute(
            insert(runs),
            {
                "project_id": self.project, "id": self.run_id, "repository_id": self._new(), "name": "brave-newt-1",
                "workflow": "train", "state": state.run.state.value, "submitted_at": tx.now,
            },
        )  # fmt: skip
        for number, spec in enumerate(state.dag):
            step = {"position": number, "name": f"s{number}", "workflow": f"s{number}", "provider": "bash"}
            plan = StoredPlan(condition=f"the condition of s{number}")
            held = {**asdict(state.steps[number]), "plan": msgspec.msgpack.encode(plan)}
            tx.execute(insert(steps), {**of_run, "id": self.steps[number], **step, **held})
            for need in spec.needs:
                edge = {"step_id": self.steps[number], "needs_id": self.steps[need]}
                tx.execute(insert(step_needs), {"project_id": self.project, **edge})
        for number, job in enumerate(state.jobs):
            step = {"step_id": self.steps[state.step_of[number]], "workflow": "train", "provider": "bash"}
            row = {"state": job.state.value, "policy": _policy(job.policy), "submitted_at": tx.now, "spec": b""}
            row |= {"reason": job.reason, "finished_at": None if job.reason is None else tx.now}
            tx.execute(
                insert(jobs), {**of_run, "id": self.jobs[number], "name": f"j{number}", "need": NEED, **step, **row}
            )


class _Killed(Exception):
    """The process ended before its commit."""


def sorted_by_object(told: Sequence[Told], kind: str) -> list[Told]:
    """Each object's events in their order; between objects the order inside one batch is free."""
    return sorted((event for event in told if event.kind == kind), key=lambda event: event.index)


def _domain(row: Any) -> Job:
    return JobRow(**{field.name: getattr(row, field.name) for field in fields(JobRow)}).domain(PLAIN.max_unstarted)


def _step(row: Any) -> Step:
    return StepRow(**{field.name: getattr(row, field.name) for field in fields(StepRow)}).domain()


def _policy(policy: Policy) -> bytes:
    names = tuple(sorted(reason.value for reason in policy.retry_on))
    return msgspec.msgpack.encode(StoredPolicy(retry_on=names, retry_max=policy.retry_max, backoff=policy.backoff))
