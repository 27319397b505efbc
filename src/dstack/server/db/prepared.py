"""Statements that are built once and run all the time: SQLAlchemy's text, without its work at every execution.

    BY_ID = Prepared(select(jobs.c.id, jobs.c.state).where(jobs.c.id.in_(bindparam("ids", expanding=True))))
    for row in tx.rows(BY_ID, {"ids": ids}): ...

On SQLite such a statement is compiled on first use and handed to the driver itself, which takes a fifth of the time.
On PostgreSQL, whose round trip outweighs that, it runs like any other statement.
"""

from __future__ import annotations

import sqlite3
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, cast

from sqlalchemy import Boolean, Executable
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine


class Prepared:
    """A statement for `Transaction.rows` or `Transaction.change`; `columns` are what an INSERT gives values for.

    Its parameters are `bindparam`s with names of their own, at most one of them `expanding`.
    """

    def __init__(self, statement: Executable, columns: Sequence[str] | None = None) -> None:
        self.statement = statement
        self._columns = columns

    @cached_property
    def direct(self) -> Direct:
        """The statement as SQLite's driver takes it."""
        return Direct(self.statement, self._columns)


class Direct:
    """Text, order and conversion of a statement's parameters, and the form of its rows, for SQLite's driver."""

    def __init__(self, statement: Any, columns: Sequence[str] | None) -> None:
        compiled = cast(SQLCompiler, statement.compile(dialect=_DIALECT, column_keys=columns))
        self._texts: dict[int, str] = {}
        self._plain: list[tuple[int, str]] = []
        self._converted: list[tuple[int, str, Callable[[Any], Any]]] = []
        self._many: tuple[int, str, Callable[[Any], Any]] | None = None
        self._count = 0
        text = iter(compiled.string.split("?"))
        written = [next(text)]
        for name in compiled.positiontup or ():
            bind = compiled.binds[name]
            convert = _bind_processor(bind.type)
            if bind.expanding:
                self._many = (self._count, name, convert or _unchanged)
            elif not bind.required:
                # As a parameter, a constant that decides for or against a partial index is planned at every execution.
                written += compiled.render_literal_value(bind.value, bind.type), next(text)
                continue
            else:
                written += "?", next(text)
                if convert is None:
                    self._plain.append((self._count, name))
                else:
                    self._converted.append((self._count, name, convert))
            self._count += 1
        self._text = "".join(written)
        described: list[dict[str, Any]] = getattr(statement, "column_descriptions", [])
        # `rename`: columns such as EXISTS have no name, and are found by position.
        row = cast(Any, namedtuple)("Row", [str(column["name"]) for column in described], rename=True)
        self._make = partial(cast(Callable[..., Any], tuple.__new__), row)
        processors = [_result_processor(column["type"]) for column in described]
        self._results = [(at, convert) for at, convert in enumerate(processors) if convert is not None]

    def rows(self, connection: sqlite3.Connection, params: Mapping[str, Any]) -> list[Any]:
        values = self._values(params)
        found = connection.execute(self._spread(values, params) if self._many else self._text, values).fetchall()
        make, results = self._make, self._results
        for number, row in enumerate(found):
            if results:
                row = list(row)
                for at, convert in results:
                    row[at] = convert(row[at])
            found[number] = make(row)
        return found

    def change(self, connection: sqlite3.Connection, rows: Sequence[Mapping[str, Any]]) -> int:
        try:
            return connection.executemany(self._text, map(self._values, rows)).rowcount
        except sqlite3.IntegrityError as error:
            raise IntegrityError(self._text, None, error) from error

    def _values(self, params: Mapping[str, Any]) -> list[Any]:
        values: list[Any] = [None] * self._count
        for at, name in self._plain:
            values[at] = params[name]
        for at, name, convert in self._converted:
            values[at] = convert(params[name])
        return values

    def _spread(self, values: list[Any], params: Mapping[str, Any]) -> str:
        """Put every value of the expanding parameter in its place, and give the text for so many."""
        assert self._many is not None
        at, name, convert = self._many
        found = [convert(value) for value in params[name]]
        size = _size(len(found))
        values[at : at + 1] = found + found[-1:] * (size - len(found))
        if size not in self._texts:
            self._texts[size] = self._text.replace(f"__[POSTCOMPILE_{name}]", ", ".join("?" * size))
        return self._texts[size]


_DIALECT = sqlite.dialect()


def _size(count: int) -> int:
    """How many places a list of `count` values gets (the last is repeated): few sizes, so that few texts are cached."""
    return 1 << (count - 1).bit_length() if 0 < count <= 16_384 else count


def _bind_processor(kind: TypeEngine[Any]) -> Callable[[Any], Any] | None:
    if isinstance(kind, Boolean):
        return None  # the driver takes them as they are
    return kind.dialect_impl(_DIALECT).bind_processor(_DIALECT)


def _result_processor(kind: TypeEngine[Any]) -> Callable[[Any], Any] | None:
    return kind.dialect_impl(_DIALECT).result_processor(_DIALECT, None)


def _unchanged(value: Any) -> Any:
    return value
