"""Requests that are sent again because their answer was lost, told by the key that marks each."""

from __future__ import annotations

from dstack.server.db.engine import Transaction
from dstack.server.db.tables import idempotency_keys
from dstack.server.services.context import Context


def is_repeated(tx: Transaction, context: Context, key: str | None) -> bool:
    """Whether a request with `key` was carried out before; if not, it is from the end of this transaction on."""
    if key is None:
        return False
    row = {"project_id": context.project_id, "key": key, "object_id": context.ids.new(tx.now), "created_at": tx.now}
    return not tx.insert_new(idempotency_keys, row)
