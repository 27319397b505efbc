"""Secrets of a repository: set, listed by name, deleted. Their values are stored sealed and never shown."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import delete, select, update

from dstack.server.db.engine import Transaction, declare_write
from dstack.server.db.tables import attempt_secrets, run_values
from dstack.server.db.tables import secrets as table
from dstack.server.services.context import Context
from dstack.server.services.errors import BadRequest, Conflict, NotFound
from dstack.server.services.repeated import is_repeated
from dstack.server.services.repositories import RepositoryRef, ensure_repository, find_repository
from dstack.server.services.sealing import KeyMissing

SET = declare_write("secrets.set")
DELETE = declare_write("secrets.delete")
MAX_VALUE = 64 << 10
"""Bytes; a variable of a process's environment may hold 128 KiB."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


def listing(tx: Transaction, project_id: UUID, repository_id: UUID) -> list[dict[str, Any]]:
    """The secrets by name, with when and by whom each was set."""
    query = select(table.c.name, table.c.updated_at, table.c.updated_by).where(*_of(project_id, repository_id))
    return [_view(*row) for row in tx.execute(query.order_by(table.c.name))]


def names(tx: Transaction, project_id: UUID, repository_id: UUID | None) -> frozenset[str]:
    """The names of a repository's secrets; none of one that was never seen."""
    if repository_id is None:
        return frozenset()
    return frozenset(tx.execute(select(table.c.name).where(*_of(project_id, repository_id))).scalars())


def add(
    context: Context, ref: RepositoryRef, name: str, value: str, *, overwrite: bool, actor: str | None
) -> dict[str, Any]:
    """Set a secret; one that exists is a Conflict unless `overwrite`."""
    check_name(name)
    raw = checked_value(name, value)
    ensure_key(context)

    def write(tx: Transaction) -> dict[str, Any]:
        repository_id = ensure_repository(tx, context, ref)
        row = _row(tx, context, repository_id, name, raw, actor)
        if not tx.insert_new(table, row):
            if not overwrite:
                raise Conflict(f"the secret `{name}` exists", hint=f"`dstack secrets update {name}` gives it a value")
            tx.execute(_update(context, repository_id, name).values(row))
        return _view(name, tx.now, actor)

    return context.database.write(SET, write)


def change(context: Context, ref: RepositoryRef, name: str, value: str, *, actor: str | None) -> dict[str, Any]:
    """Give a secret that exists a new value. Raises NotFound."""
    raw = checked_value(name, value)
    ensure_key(context)

    def write(tx: Transaction) -> dict[str, Any]:
        repository_id = find_repository(tx, context.project_id, ref)
        if repository_id is not None:
            row = _row(tx, context, repository_id, name, raw, actor)
            if tx.execute(_update(context, repository_id, name).values(row)).rowcount:
                return _view(name, tx.now, actor)
        raise _unknown(tx, context, repository_id, name, f"`dstack secrets add {name}` makes it")

    return context.database.write(SET, write)


def remove(context: Context, ref: RepositoryRef, name: str, key: str | None = None) -> dict[str, Any]:
    """Delete a secret, and tell what it was. Needs no key of the sealer's. Raises NotFound.

    `key` marks the request: sent again, because its answer was lost, it deletes nothing, and that is no error.
    """

    def write(tx: Transaction) -> dict[str, Any]:
        if is_repeated(tx, context, key):
            return _view(name, None, None)
        repository_id = find_repository(tx, context.project_id, ref)
        if repository_id is not None:
            of_it = (*_of(context.project_id, repository_id), table.c.name == name)
            found = tx.execute(select(table.c.name, table.c.updated_at, table.c.updated_by).where(*of_it)).first()
            if found is not None:
                tx.execute(delete(table).where(*of_it))
                return _view(*found)
        raise _unknown(tx, context, repository_id, name, "`dstack secrets list` names those that exist")

    return context.database.write(DELETE, write)


def opened(
    tx: Transaction, context: Context, repository_id: UUID, wanted: Collection[str] | None = None
) -> Mapping[str, bytes]:
    """The values of those of `wanted` (None: of all) that exist. Raises SealingError."""
    query = select(table.c.name, table.c.value).where(*_of(context.project_id, repository_id))
    if wanted is not None:
        query = query.where(table.c.name.in_(wanted))
    return {
        name: context.sealer.open(sealed, _bound(context, repository_id, name)) for name, sealed in tx.execute(query)
    }


def ensure_key(context: Context) -> None:
    """See to it that there is a key to seal with. A new one is made only while nothing is sealed: with a lost key's
    file put back, everything opens again. Raises SealingError."""
    try:
        context.sealer.check()
    except KeyMissing:
        if context.database.read(_anything_sealed):
            raise
        context.sealer.create()


def check_name(name: str) -> None:
    """Raises BadRequest for what cannot name a secret."""
    if _NAME.fullmatch(name) is None:
        raise BadRequest(
            f"`{name[:60]}` cannot name a secret", hint="letters, digits and `_`, a letter first, at most 100"
        )


def checked_value(name: str, value: str) -> bytes:
    """The value as bytes. Raises BadRequest, which never shows it."""
    try:
        raw = value.encode()
    except UnicodeEncodeError:
        raise BadRequest(f"the value of `{name}` is no text", hint="encode it, for example in base64") from None
    if not raw:
        raise BadRequest(f"the value of `{name}` is empty")
    if b"\0" in raw:
        raise BadRequest(f"the value of `{name}` holds a zero byte", hint="encode it, for example in base64")
    if len(raw) > MAX_VALUE:
        hint = "ship a file as an artifact, encrypted, and keep its key as a secret"
        raise BadRequest(f"the value of `{name}` is longer than {MAX_VALUE >> 10} KiB", hint=hint)
    return raw


def _of(project_id: UUID, repository_id: UUID) -> tuple[Any, Any]:
    return table.c.project_id == project_id, table.c.repository_id == repository_id


def _update(context: Context, repository_id: UUID, name: str) -> Any:
    return update(table).where(*_of(context.project_id, repository_id), table.c.name == name)


def _row(
    tx: Transaction, context: Context, repository_id: UUID, name: str, raw: bytes, actor: str | None
) -> dict[str, Any]:
    return {
        "project_id": context.project_id, "repository_id": repository_id, "name": name,
        "value": context.sealer.seal(raw, _bound(context, repository_id, name)),
        "updated_by": actor, "updated_at": tx.now,
    }  # fmt: skip


def _bound(context: Context, repository_id: UUID, name: str) -> bytes:
    return b"secret\0" + context.project_id.bytes + repository_id.bytes + name.encode()


def _view(name: str, updated_at: int | None, updated_by: str | None) -> dict[str, Any]:
    return {"name": name, "updated_at": updated_at, "by": updated_by}


def _unknown(tx: Transaction, context: Context, repository_id: UUID | None, name: str, hint: str) -> NotFound:
    known = sorted(names(tx, context.project_id, repository_id))
    there = f"; there are: {', '.join(known[:20])}" if known else ""
    return NotFound(f"there is no secret `{name[:60]}` in this repository{there}", hint=hint)


def _anything_sealed(tx: Transaction) -> bool:
    return any(tx.execute(select(one.c.name).limit(1)).first() for one in (table, run_values, attempt_secrets))
