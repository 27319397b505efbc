"""SQLite: one connection that writes, a few that read beside it from the write-ahead log."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import LifoQueue
from typing import TypeVar

from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from dstack.domain import faults
from dstack.domain.ports import Clock
from dstack.server.db import errors
from dstack.server.db.errors import DatabaseError
from dstack.server.db.transaction import Transaction

T = TypeVar("T")

BUSY_TIMEOUT = 5.0
"""Seconds a write waits for another program that holds the file; our own writes queue before that."""

_PRAGMAS = (
    "journal_mode = WAL",  # readers never wait for the writer
    "synchronous = NORMAL",  # a power cut may cost the last commits, never the file; killing the server costs none
    "foreign_keys = ON",
    "cache_size = -8192",  # KiB per connection: the idle server stays within its budget
    "mmap_size = 0",  # a mapped file that shrinks or fails to read is a SIGBUS, not an error
    "temp_store = MEMORY",
    "journal_size_limit = 67108864",  # a log that one huge transaction grew shrinks again
)


class SqliteBackend:
    """`write` and `read` may be called from any thread; writes take turns."""

    def __init__(self, path: str, clock: Clock, *, readers: int = 2, busy_timeout: float = BUSY_TIMEOUT) -> None:
        self.where = path
        self.readers = readers
        self._clock = clock
        self._engine = create_engine(
            "sqlite://",
            creator=lambda: connect(path, busy_timeout),
            poolclass=NullPool,
            execution_options={"preserve_rowcount": True},  # of INSERTs too, for `ON CONFLICT DO NOTHING`
        )
        self._lock = threading.Lock()
        self._holder = 0
        self._free: LifoQueue[_Opened] = LifoQueue()
        self._all: list[_Opened] = []
        try:
            self._writer = self._open(query_only=False)
            for _ in range(readers):
                self._free.put(self._open(query_only=True))
        except sqlite3.Error as error:
            self.close()
            raise errors.from_sqlite(error, path) or DatabaseError(f"{path}: {error}") from error

    def write(self, work: Callable[[Transaction], T], before: str, after: str, topics: set[str]) -> T:
        """Run `work` in a transaction of its own and commit it, between the fault points `before` and `after`."""
        me = threading.get_ident()
        if self._holder == me:
            raise RuntimeError("a write inside a write: use the transaction at hand")
        with self._lock:
            self._holder = me
            try:
                return self._write(work, before, after, topics)
            except (sqlite3.Error, DBAPIError) as error:
                if ours := errors.from_sqlite(error, self.where):
                    raise ours from error
                raise
            finally:
                self._holder = 0

    def read(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` on one unchanging state of the database."""
        opened = self._free.get()
        try:
            opened.raw.execute("BEGIN")
            try:
                return work(Transaction(opened.connection, self._clock.now, None, opened.raw))
            finally:
                opened.rollback()
        except (sqlite3.Error, DBAPIError) as error:
            if ours := errors.from_sqlite(error, self.where):
                raise ours from error
            raise
        finally:
            self._free.put(opened)

    def close(self) -> None:
        """Close every connection; the last one folds the write-ahead log into the file."""
        with self._lock:
            for opened in self._all:
                opened.connection.close()
            self._engine.dispose()

    def _write(self, work: Callable[[Transaction], T], before: str, after: str, topics: set[str]) -> T:
        writer = self._writer
        writer.raw.execute("BEGIN IMMEDIATE")
        try:
            result = work(Transaction(writer.connection, self._clock.now, topics, writer.raw))
            faults.point(before)
            writer.commit()
        except BaseException:
            writer.rollback()
            raise
        faults.point(after)
        return result

    def _open(self, query_only: bool) -> _Opened:
        connection = self._engine.connect()
        raw = connection.connection.dbapi_connection
        assert isinstance(raw, sqlite3.Connection)
        if query_only:
            raw.execute("PRAGMA query_only = ON")
        opened = _Opened(connection, raw)
        self._all.append(opened)
        return opened


class _Opened:
    """A connection and the driver's own object below it, which starts transactions without SQLAlchemy's detour.

    SQLAlchemy joins a transaction with the first statement that goes through it, which need not be any.
    """

    __slots__ = ("connection", "raw")

    def __init__(self, connection: Connection, raw: sqlite3.Connection) -> None:
        self.connection = connection
        self.raw = raw

    def commit(self) -> None:
        if self.connection.in_transaction():
            self.connection.commit()
        else:
            self.raw.commit()

    def rollback(self) -> None:
        self.connection.rollback()
        if self.raw.in_transaction:
            self.raw.rollback()


def connect(path: str, busy_timeout: float = BUSY_TIMEOUT) -> sqlite3.Connection:
    """A connection to the file at `path`, made (mode 0600) if there is none; transactions are the caller's to begin.

    Raises sqlite3.Error; `errors.from_sqlite` has the words.
    """
    if not Path(path).exists():
        with suppress(OSError):  # SQLite fails in the same place, and says it in the form the caller expects
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    connection = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None, check_same_thread=False)
    try:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection
