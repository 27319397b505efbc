"""The one place that changes a runner's state: the event is decided, and the row written where nobody else did."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import update

from dstack.domain.lifecycle import Decision, Transition
from dstack.domain.lifecycle import runner as runner_table
from dstack.domain.lifecycle.runner import Runner, RunnerEvent, RunnerState
from dstack.server.db.engine import Transaction
from dstack.server.db.tables import runners


def move(tx: Transaction, project_id: UUID, row: Any, event: RunnerEvent, **values: Any) -> Decision[Runner]:
    """Decide `event` on a row of `runners`; with a transition also write `values` and wake who waits for runners."""
    decision = runner_table.decide(Runner(RunnerState(row.state), row.incarnation), event, tx.now)
    if not isinstance(decision, Transition):
        return decision
    after = decision.after
    if after.state is RunnerState.LOST:
        values["lost_at"] = tx.now
    elif after.state is RunnerState.ONLINE:
        values["lost_at"] = None
    tx.execute(
        update(runners)
        .where(runners.c.project_id == project_id, runners.c.id == row.id, runners.c.version == row.version)
        .values({"state": after.state.value, "incarnation": after.incarnation, "version": row.version + 1, **values})
    )
    if after.state != row.state:
        tx.notify("runners")
        if after.state is RunnerState.ONLINE:
            tx.notify("place")
    return decision
