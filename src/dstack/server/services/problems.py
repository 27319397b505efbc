"""What keeps attempts from saving, as their runners tell it with each poll: shown to whoever looks at the run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from uuid import UUID

from sqlalchemy import and_, select, update

from dstack.server.db.engine import Transaction, declare_write
from dstack.server.db.errors import DatabaseError
from dstack.server.db.tables import attempts, jobs
from dstack.server.services.context import Context

TELL = declare_write("attempts.problem")
_STATES = ("running", "saving")
_log = logging.getLogger(__name__)


def tell(context: Context, changed: Mapping[UUID, str], runs: Mapping[UUID, UUID]) -> None:
    """Take in what differs from what is known, and wake who follows. `runs` are those of the attempts.

    It is stored, for every server of a deployment; where the same full disk keeps the database from taking it, this
    server remembers it.
    """
    context.problems.update(changed)
    topics = {problem_topic(runs[attempt_id]) for attempt_id in changed}
    try:
        context.database.write(TELL, lambda tx: _store(tx, context.project_id, changed, topics))
    except DatabaseError as error:
        _log.warning("what keeps %d attempts from saving is not stored: %s", len(changed), error)
    else:
        for attempt_id in changed:
            context.problems.pop(attempt_id, None)
    context.bus.publish_many(topics)


def problem_topic(run_id: UUID) -> str:
    """Heard when something begins or ceases to keep jobs of the run from saving."""
    return f"problem:{run_id.hex}"


def problems(
    tx: Transaction, project_id: UUID, run_id: UUID, unstored: Mapping[UUID, str], most: int
) -> dict[UUID, str]:
    """By job, what keeps the first jobs of a run that are being saved from it."""
    query = (
        select(jobs.c.id, attempts.c.id.label("attempt_id"), attempts.c.save_problem)
        .join(
            attempts,
            and_(
                attempts.c.project_id == jobs.c.project_id,
                attempts.c.job_id == jobs.c.id,
                attempts.c.number == jobs.c.attempt,
            ),
        )
        .where(jobs.c.project_id == project_id, jobs.c.run_id == run_id, jobs.c.state.in_(_STATES))
        .order_by(jobs.c.submitted_at, jobs.c.id)
    )
    found: dict[UUID, str] = {}
    for row in tx.execute(query):
        text = unstored.get(row.attempt_id, row.save_problem)
        if text and len(found) < most:
            found[row.id] = text
    return found


def _store(tx: Transaction, project_id: UUID, changed: Mapping[UUID, str], topics: Iterable[str]) -> None:
    for topic in topics:
        tx.notify(topic)
    for attempt_id, text in changed.items():
        of_attempt = (attempts.c.project_id == project_id, attempts.c.id == attempt_id)
        tx.execute(update(attempts).where(*of_attempt).values(save_problem=text or None))
