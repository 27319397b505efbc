"""Which runners have a job's large inputs already, as far as they told this process.

A hint for the placer, and no record: another replica may know of other runners, and a runner may have removed an input
since. Costs nothing where no runner holds any, or only one could take the job.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import msgspec
from sqlalchemy import and_, bindparam, select

from dstack.server.db.engine import Transaction
from dstack.server.db.prepared import Prepared
from dstack.server.db.tables import jobs, steps
from dstack.server.db.types import Id
from dstack.server.services.assignments import inputs_of
from dstack.server.services.context import Context
from dstack.server.services.stored import StoredPlan


def tell(context: Context, runner_id: UUID, manifest_ids: Sequence[bytes]) -> None:
    """The runner has these, and no others."""
    if manifest_ids:
        context.holdings[runner_id] = frozenset(manifest_ids)
    else:
        context.holdings.pop(runner_id, None)


def held(tx: Transaction, context: Context, job_id: UUID) -> dict[UUID, int]:
    """How many inputs of a queued job each runner has that has any."""
    row = next(iter(tx.rows(_SELECT, {"project": context.project_id, "job": job_id})), None)
    if row is None:
        return {}
    plan = msgspec.msgpack.decode(row.plan, type=StoredPlan)
    wanted = {item.manifest_id for item in inputs_of(tx, context.project_id, row.step_id, plan)}
    found = {runner_id: len(wanted & ids) for runner_id, ids in list(context.holdings.items())}
    return {runner_id: count for runner_id, count in found.items() if count}


_SELECT = Prepared(
    select(jobs.c.step_id, steps.c.plan)
    .join(steps, and_(steps.c.project_id == jobs.c.project_id, steps.c.id == jobs.c.step_id))
    .where(jobs.c.project_id == bindparam("project", type_=Id), jobs.c.id == bindparam("job", type_=Id))
)
