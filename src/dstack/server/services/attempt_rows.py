"""The attempts of a batch: each follows its job by the attempt's table, and is written once, with its batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from dstack.domain.lifecycle import BeginAttempt, Recall, Refused, Signal, Transition
from dstack.domain.lifecycle import attempt as attempt_table
from dstack.domain.lifecycle import job as job_table
from dstack.domain.lifecycle.attempt import Attempt, AttemptState
from dstack.domain.lifecycle.job import Job, JobEvent
from dstack.server.db.engine import Transaction
from dstack.server.services import rows
from dstack.server.services.facts import Facts, event_name
from dstack.server.services.rows import JobRow


@dataclass(slots=True)
class _Change:
    state: AttemptState
    facts: dict[str, Any] = field(default_factory=dict[str, Any])


class AttemptRows:
    """New, changed and late attempts, kept until `write`."""

    def __init__(self, tx: Transaction, project_id: UUID) -> None:
        self._tx = tx
        self._project_id = project_id
        self._new: list[dict[str, Any]] = []
        self._changes: dict[tuple[UUID, int], _Change] = {}
        self.late: list[dict[str, Any]] = []

    def settle(self, row: JobRow, before: Job, event: JobEvent, move: Transition[Job], facts: Facts) -> None:
        """Carry out what a job's move means for its attempt; wakes the runner that has to know."""
        live = attempt_table.of(before)
        if live is not None:
            followed = attempt_table.follow(live, move)
            assert not isinstance(followed, Refused), followed.why
            if isinstance(followed, Transition):
                self._change(row, followed.after, event, facts)
        for effect in move.effects:
            if isinstance(effect, BeginAttempt):
                self._begin(row, effect.number, facts)
            elif isinstance(effect, Signal | Recall) and row.runner_id is not None:
                self._tx.notify(f"runner:{row.runner_id.hex}")

    def note_late(self, row: JobRow, event: JobEvent) -> None:
        """Keep a message of an attempt that is over beside that attempt."""
        number = getattr(event, "attempt", None)
        self.late.append(
            {
                "k_project": self._project_id, "k_job": row.id, "k_number": number, "v_event": event_name(event),
                "v_exit_code": getattr(getattr(event, "exit", None) or event, "exit_code", None), "v_at": self._tx.now,
            }
        )  # fmt: skip

    def write(self) -> None:
        if self._new:
            self._tx.change(rows.INSERT_ATTEMPTS, self._new)
        changes = [
            {
                "k_project": self._project_id, "k_job": job_id, "k_number": number, "v_state": change.state.value,
                **{f"v_{name}": change.facts.get(name) for name in rows.ATTEMPT_FACTS},
            }
            for (job_id, number), change in self._changes.items()
        ]  # fmt: skip
        if changes:
            self._tx.change(rows.UPDATE_ATTEMPTS, changes)
        if self.late:
            self._tx.change(rows.UPDATE_LATE, self.late)

    def _begin(self, row: JobRow, number: int, facts: Facts) -> None:
        assert facts.runner_id is not None
        assert facts.attempt_id is not None
        row.runner_id = facts.runner_id
        self._new.append(
            {
                "project_id": self._project_id, "id": facts.attempt_id, "job_id": row.id, "run_id": row.run_id,
                "number": number, "runner_id": facts.runner_id, "state": Attempt(number).state.value,
                "assigned_at": self._tx.now,
            }
        )  # fmt: skip
        self._tx.notify(f"runner:{facts.runner_id.hex}")

    def _change(self, row: JobRow, after: Attempt, event: JobEvent, facts: Facts) -> None:
        change = self._changes.setdefault((row.id, after.number), _Change(after.state))
        change.state = after.state
        at = seen_at(row, facts, self._tx.now)
        match after.state:
            case AttemptState.STARTING:
                change.facts["accepted_at"] = at
            case AttemptState.RUNNING:
                change.facts["started_at"] = at
            case AttemptState.SAVING:
                change.facts.update(exited_at=at, exit_code=row.exit_code)
            case _:
                change.facts.update(outcome=after.outcome, ended_at=at, detail=facts.detail)
                if row.exit_code is not None:
                    change.facts["exit_code"] = row.exit_code
                self._leave(row, event)
        for name in ("signal", "oom", "log_length", "log_incomplete", "packages", "save_warnings"):
            if (told := getattr(facts, name)) is not None:
                change.facts[name] = told

    def _leave(self, row: JobRow, event: JobEvent) -> None:
        """The attempt's place is free; its runner is told where it cannot know."""
        if row.runner_id is not None and isinstance(event, _BY_SERVER):
            self._tx.notify(f"runner:{row.runner_id.hex}")
            self._tx.notify(f"ended:{row.runner_id.hex}")
        if row.state == "queued":
            row.runner_id = None
        self._tx.notify("place")


def seen_at(row: JobRow, facts: Facts, now: int) -> int:
    """The runner's time of an event: not in the future of this transaction, nor before what came first.

    Clocks differ and are set back, yet no duration is negative.
    """
    seen = now if facts.at is None else min(facts.at, now)
    return max(seen, row.queued_at or row.submitted_at, row.started_at or 0)


_BY_SERVER = (
    job_table.Lost,
    job_table.SaveFailed,
    job_table.Returned,
    job_table.SetupFailed,
    job_table.StopAsked,
)
"""Events that the runner may not know of: it has to be told that the attempt is over."""
