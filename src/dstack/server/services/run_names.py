"""The names that new runs take, and the keys by which a submission that is sent again is the same run."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select

from dstack.server.db.engine import Transaction
from dstack.server.db.tables import idempotency_keys, retired_run_names, runs
from dstack.server.services import names
from dstack.server.services.context import Context


class KeyTaken(Exception):
    """Another request with the same idempotency key committed first: nothing of this one may stay."""


def free(tx: Transaction, context: Context) -> str:
    """A name that no run has or had; somebody else may take it before this transaction is over."""
    number = 1
    while True:
        name = names.propose(context.random, number)
        if not is_taken(tx, context.project_id, name):
            return name
        number += 1


def is_taken(tx: Transaction, project_id: UUID, name: str) -> bool:
    for table in (runs, retired_run_names):
        query = select(table.c.name).where(table.c.project_id == project_id, table.c.name == name)
        if tx.execute(query).first() is not None:
            return True
    return False


def of_key(tx: Transaction, project_id: UUID, key: str) -> str | None:
    """The run that was made with an idempotency key."""
    return tx.execute(
        select(runs.c.name)
        .join(
            idempotency_keys,
            (idempotency_keys.c.project_id == runs.c.project_id) & (idempotency_keys.c.object_id == runs.c.id),
        )
        .where(idempotency_keys.c.project_id == project_id, idempotency_keys.c.key == key)
    ).scalar()


def keep_key(tx: Transaction, project_id: UUID, run_id: UUID, key: str) -> None:
    """Note that `key` made this run; raises KeyTaken."""
    values = {"project_id": project_id, "key": key, "object_id": run_id, "created_at": tx.now}
    if not tx.insert_new(idempotency_keys, values):
        raise KeyTaken
