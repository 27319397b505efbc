"""Stopping runs, and single jobs of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import select

from dstack.domain.lifecycle import job as job_table
from dstack.domain.lifecycle import run as run_table
from dstack.server.db.engine import Transaction, declare_write
from dstack.server.db.tables import jobs
from dstack.server.services.apply import Answer, Batch
from dstack.server.services.context import Context
from dstack.server.services.facts import Facts
from dstack.server.services.named import is_named, run_id_of, see_jobs

STOP = declare_write("runs.stop")


def stop(context: Context, name: str, *, job: str | None = None, abort: bool, actor: str | None) -> Answer:
    """Ask every open job of a run to stop, or only `job` (or those of the workflow `job`); `ignored` with "already
    finished" where it was."""

    def write(tx: Transaction) -> Answer:
        run_id = run_id_of(tx, context.project_id, name)
        batch = Batch(tx, context.project_id, context.settings, context.ids)
        batch.load_runs([run_id])
        facts = Facts(actor=actor)
        if job is not None:
            answer = _ask(batch, _open_jobs(tx, context, run_id, name, job), abort, facts)
        else:
            answer = batch.run(run_id, run_table.StopAsked(abort), facts)
            if answer.outcome == "applied":
                _ask(batch, _open(tx, context, run_id), abort, facts)
        batch.store()
        return answer

    return context.database.write(STOP, write)


def _ask(batch: Batch, job_ids: Sequence[UUID], abort: bool, facts: Facts) -> Answer:
    batch.load_jobs(job_ids)
    answers = [batch.job(job_id, job_table.StopAsked(abort), facts) for job_id in job_ids]
    applied = [answer for answer in answers if answer.outcome == "applied"]
    return next(iter(applied or answers), Answer("ignored", "already finished"))


def _open(tx: Transaction, context: Context, run_id: UUID, *which: Any) -> list[UUID]:
    query = select(jobs.c.id).where(
        jobs.c.project_id == context.project_id,
        jobs.c.run_id == run_id,
        jobs.c.state.not_in([state.value for state in job_table.TERMINAL]),
        *which,
    )
    return list(tx.execute(query).scalars())


def _open_jobs(tx: Transaction, context: Context, run_id: UUID, run: str, job: str) -> list[UUID]:
    """Those that `job` names and that are not finished. Raises NotFound where it names none."""
    found = _open(tx, context, run_id, is_named(job))
    if not found:
        see_jobs(tx, context.project_id, [run_id], f"run {run}", job)
    return found
