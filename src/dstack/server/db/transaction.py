"""What a write or a read sees of the database: statements, one "now", and topics to wake others with."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from sqlalchemy import Connection, CursorResult, Executable, Insert, Table

from dstack.server.db.prepared import Prepared

Params = Mapping[str, Any]
"""The values of one row or statement, by name."""


Result: TypeAlias = CursorResult[*tuple[Any, ...]]


class Transaction:
    """One open transaction, valid inside the function it is handed to.

    Statements are SQLAlchemy Core. One that is built once, at module level with `bindparam`, costs about a quarter
    of one built per call, because neither it nor its cache key is made again; as `Prepared`, again a fifth of that.
    """

    __slots__ = ("_clock", "_connection", "_now", "_raw", "dialect", "topics")

    def __init__(
        self,
        connection: Connection,
        clock: Callable[[], int],
        topics: set[str] | None,
        raw: sqlite3.Connection | None = None,
    ) -> None:
        """`raw` is the driver's own connection below `connection`, on SQLite."""
        self.dialect = connection.dialect.name
        self.topics = topics
        self._connection = connection
        self._raw = raw
        self._clock = clock
        self._now: int | None = None

    @property
    def now(self) -> int:
        """Microseconds UTC, the same for the whole transaction; the database's own clock on PostgreSQL."""
        if self._now is None:
            self._now = self._clock()
        return self._now

    def execute(self, statement: Executable, params: Params | Sequence[Params] | None = None) -> Result:
        """Run one statement; with a list of rows, run it for each of them at the driver's best speed."""
        return self._connection.execute(statement, params)

    def rows(self, statement: Prepared, params: Params) -> list[Any]:
        """What a prepared SELECT finds, as named tuples."""
        if self._raw is not None:
            return statement.direct.rows(self._raw, params)
        return list(self._connection.execute(statement.statement, params))

    def change(self, statement: Prepared, rows: Sequence[Params]) -> int:
        """Run a prepared INSERT or UPDATE for each of `rows` (not none); how many rows were changed in all."""
        if self._raw is not None:
            return statement.direct.change(self._raw, rows)
        return self._connection.execute(statement.statement, rows).rowcount

    def insert_new(self, table: Table, row: Params) -> bool:
        """Insert a row unless a unique key of it is taken; False if it was, with the transaction still usable."""
        statement = _insert_or_nothing(table, self.dialect, tuple(row))
        return self._connection.execute(statement, row).rowcount == 1

    def insert_missing(self, table: Table, rows: Sequence[Params]) -> None:
        """Insert those of `rows` whose unique keys are free; the others stay as they are in the table."""
        if rows:
            self._connection.execute(_insert_or_nothing(table, self.dialect, tuple(rows[0])), rows)

    def notify(self, topic: str) -> None:
        """Wake those who wait for `topic`, once this has been committed."""
        if self.topics is None:
            raise RuntimeError(f"a read cannot notify ({topic!r}): nothing is committed")
        self.topics.add(topic)

    def notifies(self, topic: str) -> bool:
        """Whether `topic` is to be woken."""
        return self.topics is not None and topic in self.topics

    def withdraw(self, topic: str) -> None:
        """Wake nobody for `topic` after all: what they would look for is done."""
        if self.topics is not None:
            self.topics.discard(topic)


@lru_cache(maxsize=256)
def _insert_or_nothing(table: Table, dialect: str, columns: tuple[str, ...]) -> Insert:
    # `columns` is part of the key only: SQLAlchemy compiles the statement for the columns of its parameters.
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert
    return insert(table).on_conflict_do_nothing()
