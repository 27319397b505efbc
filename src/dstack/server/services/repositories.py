"""Repositories: what workflows, tags and secrets belong to, known by a key and its aliases."""

from __future__ import annotations

from uuid import UUID

import msgspec
from sqlalchemy import select

from dstack.server.db.engine import Transaction
from dstack.server.db.tables import repositories, repository_aliases
from dstack.server.services.context import Context
from dstack.server.services.errors import NotFound


class RepositoryRef(msgspec.Struct, frozen=True):
    key: str
    name: str = ""
    root: str | None = None
    remote: str | None = None
    branch: str | None = None
    commit: str | None = None
    aliases: tuple[str, ...] = ()


def find_repository(tx: Transaction, project_id: UUID, ref: RepositoryRef) -> UUID | None:
    """The repository that `ref.key` or one of its aliases names, if it was seen before."""
    keys = [ref.key, *ref.aliases]
    known: dict[str, UUID] = {}
    for column, table in ((repository_aliases.c.repository_id, repository_aliases), (repositories.c.id, repositories)):
        query = select(table.c.key, column).where(table.c.project_id == project_id, table.c.key.in_(keys))
        known.update((key, repository_id) for key, repository_id in tx.execute(query))
    # What it is called now says more than what it was called once.
    return next((known[key] for key in keys if key in known), None)


def named_repository(tx: Transaction, project_id: UUID, ref: RepositoryRef | None) -> UUID | None:
    """The repository that a query names, None where it names none; raises NotFound for one never seen."""
    if ref is None:
        return None
    found = find_repository(tx, project_id, ref)
    if found is None:
        raise NotFound(f"nothing was ever submitted from the repository `{ref.key}`")
    return found


def ensure_repository(tx: Transaction, context: Context, ref: RepositoryRef) -> UUID:
    """The repository's id; a new key of a known repository (a remote was added) becomes its alias."""
    known = find_repository(tx, context.project_id, ref)
    if known is None:
        known = context.ids.new(tx.now)
        values = {
            "project_id": context.project_id, "id": known, "key": ref.key, "name": ref.name,
            "root": ref.root, "created_at": tx.now,
        }  # fmt: skip
        if not tx.insert_new(repositories, values):
            # Another request has just made it (PostgreSQL).
            known = find_repository(tx, context.project_id, ref)
            assert known is not None
    for key in (ref.key, *ref.aliases):
        values = {"project_id": context.project_id, "key": key, "repository_id": known}
        tx.insert_new(repository_aliases, values)
    return known
