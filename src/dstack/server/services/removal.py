"""Deleting the blobs of packs that were condemned long enough ago, and of packs that no catalog knows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from sqlalchemy import delete, exists, select, update

from dstack.domain.parts import parts
from dstack.domain.ports import SECOND
from dstack.server.db.engine import Transaction, declare_write
from dstack.server.db.tables import chunks, packs, projects
from dstack.server.services.catalog import take_blobs
from dstack.server.services.context import Context
from dstack.server.services.ledger import Ledger
from dstack.snapshots.errors import BadPack
from dstack.snapshots.interfaces import pack_key
from dstack.snapshots.packs import id_of

REMOVE: Final = declare_write("gc.remove")
ADOPT: Final = declare_write("gc.adopt")
TOGETHER: Final = 20
"""Blobs that are deleted in one transaction, which takes some milliseconds of a local disk."""
LISTED: Final = 500


class Removed(NamedTuple):
    packs: int
    size: int
    """Bytes."""


def remove_condemned(context: Context, before: int) -> Iterator[Removed]:
    """Delete what was condemned before that time, some at a time; how much each time."""
    while True:
        found = context.database.write(REMOVE, lambda tx: _remove(tx, context, before))
        if found is None:
            return
        yield found


def has_condemned(context: Context, before: int) -> bool:
    """Whether `remove_condemned` would find something: a look that writes nothing."""
    query = select(packs.c.pack_id).where(*_due(context, before)).limit(1)
    return context.database.read(lambda tx: tx.execute(query).first()) is not None


def waiting(context: Context) -> list[int]:
    """Sizes of the packs that are condemned and not deleted yet."""
    query = select(packs.c.size).where(packs.c.project_id == context.project_id, packs.c.condemned_at.is_not(None))
    return context.database.read(lambda tx: list(tx.execute(query).scalars()))


def unfinished(context: Context, before: int) -> Iterator[list[tuple[bytes, int, int]]]:
    """(id, size, time of change) of stored packs that no catalog knows and that did not change since: saves that were
    cut off before they recorded what they had put."""
    ledger = Ledger(context)
    for infos in parts(context.blobs.list("packs/"), LISTED):
        found: dict[bytes, tuple[int, int]] = {}
        for info in infos:
            if info.modified >= before:
                continue
            try:
                found[id_of(info.key)] = info.size, info.modified
            except BadPack:
                continue  # nothing of ours: `dstack verify` tells of it
        yield [(pack_id, *found[pack_id]) for pack_id in ledger.packs_of_nobody(list(found))] if found else []


def adopt(context: Context, found: list[tuple[bytes, int, int]]) -> None:
    """Let unfinished packs be condemned ones: whoever puts one of them again and records it keeps it."""

    def write(tx: Transaction) -> None:
        rows = [
            {
                "project_id": context.project_id, "pack_id": pack_id, "size": size, "created_at": changed,
                "condemned_at": changed,
            }
            for pack_id, size, changed in found
        ]  # fmt: skip
        tx.insert_missing(packs, rows)

    if found:
        context.database.write(ADOPT, write)


def _remove(tx: Transaction, context: Context, before: int) -> Removed | None:
    """Delete blobs and rows while the rows are locked, so that nobody takes up a pack whose blob goes.

    Runs again where it could not be committed: deleting a blob twice is no harm.
    """
    take_blobs(tx)
    query = select(packs.c.pack_id, packs.c.size).where(*_due(context, before)).order_by(packs.c.pack_id)
    due = tx.execute(query.limit(TOGETHER).with_for_update()).all()
    if not due:
        return None
    ids = [bytes(row.pack_id) for row in due]
    of_these = (packs.c.project_id == context.project_id, packs.c.pack_id.in_(ids))
    full = exists(
        select(chunks.c.chunk_id).where(chunks.c.project_id == context.project_id, chunks.c.pack_id == packs.c.pack_id)
    )
    tx.execute(update(packs).where(*of_these, full).values(condemned_at=None))
    others = select(projects.c.project_id).where(projects.c.project_id != context.project_id)
    shared = select(packs.c.pack_id).where(packs.c.project_id.in_(others), packs.c.pack_id.in_(ids))
    kept = {bytes(pack_id) for pack_id in tx.execute(shared).scalars()}
    empty = select(packs.c.pack_id, packs.c.size).where(*of_these, packs.c.condemned_at.is_not(None))
    going = {bytes(pack_id): size for pack_id, size in tx.execute(empty)}
    context.blobs.delete(pack_key(pack_id) for pack_id in going if pack_id not in kept)
    tx.execute(delete(packs).where(*of_these, packs.c.condemned_at.is_not(None)))
    return Removed(len(going), sum(size for pack_id, size in going.items() if pack_id not in kept))


def _due(context: Context, before: int) -> tuple[Any, Any]:
    return packs.c.project_id == context.project_id, packs.c.condemned_at <= before


def condemned_before(context: Context, now: int, grace: float | None = None) -> int:
    """When a pack must have been condemned to go now; a `grace` of seconds that is shorter counts here, too."""
    wait = context.settings.gc_condemned
    return now - int((wait if grace is None else min(wait, grace)) * SECOND)
