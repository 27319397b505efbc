"""The few forms that tables, columns and keys have in migrations. Never changed once a migration uses them."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from alembic import op
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import TypeEngine

from dstack.server.db.types import Id

Part: TypeAlias = "SchemaItem | Unique | ForeignKey"


class Unique(NamedTuple):
    """A unique constraint, named after its table and columns."""

    columns: tuple[str, ...]


class ForeignKey(NamedTuple):
    """Rows that go when the parent's row goes; `column` holds its id, in the same project."""

    parent: str
    column: str


def create(table: str, *parts: Part, **options: Any) -> None:
    op.create_table(table, *(_finished(table, part) for part in parts), **options)


def _finished(table: str, part: Part) -> SchemaItem:
    if isinstance(part, Unique):
        return UniqueConstraint(*part.columns, name=f"uq_{table}_{'_'.join(part.columns)}")
    if isinstance(part, ForeignKey):
        parent = [f"{part.parent}.project_id", f"{part.parent}.id"]
        return ForeignKeyConstraint(["project_id", part.column], parent, ondelete="CASCADE")
    if isinstance(part, PrimaryKeyConstraint):
        part.name = f"pk_{table}"
    return part


def index(name: str, table: str, *columns: str, where: str | None = None) -> None:
    options: dict[str, Any] = {}
    if where is not None:
        options = {"sqlite_where": text(where), "postgresql_where": text(where)}
    op.create_index(name, table, [text(column) if " " in column else column for column in columns], **options)


def pk(*columns: str) -> PrimaryKeyConstraint:
    return PrimaryKeyConstraint(*columns)


def unique(*columns: str) -> Unique:
    return Unique(columns)


def child_of(parent: str, column: str) -> ForeignKey:
    return ForeignKey(parent, column)


def _column(name: str, kind: TypeEngine[Any], null: bool, default: str | None) -> Column[Any]:
    return Column(name, kind, nullable=null, server_default=None if default is None else text(default))


def uid(name: str, null: bool = False) -> Column[Any]:
    return _column(name, Id(), null, None)


def txt(name: str, default: str | None = None, null: bool = False) -> Column[Any]:
    return _column(name, Text(), null, default)


def num(name: str, default: str | None = None, null: bool = False) -> Column[Any]:
    return _column(name, Integer(), null, default)


def big(name: str, default: str | None = None, null: bool = False) -> Column[Any]:
    return _column(name, BigInteger(), null, default)


def blob(name: str, null: bool = False) -> Column[Any]:
    return _column(name, LargeBinary(), null, None)


def flag(name: str) -> Column[Any]:
    return _column(name, Boolean(), False, "false")


def real(name: str, null: bool = False) -> Column[Any]:
    return _column(name, Float(53), null, None)
