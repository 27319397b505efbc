"""The whole story of a job, for the refusal of a message that contradicts it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import select

from dstack.server.db.engine import Transaction
from dstack.server.db.tables import events
from dstack.server.services.rows import JobRow


def story_of(tx: Transaction, project_id: UUID, row: JobRow, made: Iterable[Mapping[str, Any]]) -> str:
    """Everything recorded of a job, a line an event; `made` are events of its run that are not written yet."""
    query = (
        select(events.c.seq, events.c.event, events.c.before, events.c.after, events.c.attempt, events.c.detail)
        .where(events.c.project_id == project_id, events.c.run_id == row.run_id, events.c.object_id == row.id)
        .order_by(events.c.seq)
    )
    lines = [f"story of job {row.name}, now {row.state}, attempt {row.attempt}:"]
    for seq, event, before, after, attempt, detail in tx.execute(query):
        lines.append(f"  {seq}: {event} {before} -> {after} attempt {attempt} {detail or ''}".rstrip())
    for event in made:
        if event["object_id"] == row.id:
            told = f"  now: {event['event']} {event['before']} -> {event['after']} attempt {event['attempt']}"
            lines.append(f"{told} {event['detail'] or ''}".rstrip())
    return "\n".join(lines)
