"""The database as services see it: named writes, reads, and who is told after a commit.

    database = Database.open(url, clock=clock, on_commit=bus.publish_many)
    PLACE = declare_write("place")
    placed = database.write(PLACE, lambda tx: place(tx, jobs))

Errors are drawn in `dstack.server.db.errors`. On PostgreSQL the function of a write may run more than once, so it
does nothing but use its transaction.

`write` and `read` run in the calling thread; `aread` in threads of its own, off the event loop. The
interpreter hands a busy event loop's lock to another thread only after its switch interval (5 ms as shipped, and
again at each statement): a process with both sets `sys.setswitchinterval` to 0.5 ms.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from dstack.domain import faults
from dstack.domain.ports import Clock
from dstack.server.db.errors import DatabaseError, DatabaseUnavailable
from dstack.server.db.postgresql import Backoff, PostgresqlBackend
from dstack.server.db.sqlite import SqliteBackend
from dstack.server.db.transaction import Transaction

__all__ = ["Backend", "Database", "DatabaseError", "Transaction", "declare_write", "parse_url"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_writes: dict[str, tuple[str, str]] = {}


def declare_write(name: str) -> str:
    """Declare a name for `Database.write`, once, at import of the module that writes; returns it."""
    points = (f"commit:{name}:before", f"commit:{name}:after")
    faults.declare(*points)
    _writes[name] = points
    return name


class Backend(Protocol):
    """One kind of database; every call is safe from any thread."""

    where: str
    readers: int

    def write(self, work: Callable[[Transaction], T], before: str, after: str, topics: set[str]) -> T: ...
    def read(self, work: Callable[[Transaction], T]) -> T: ...
    def close(self) -> None: ...


class Database:
    """Reads and named writes. Made by `open`, ended by `close`."""

    def __init__(self, backend: Backend, dialect: str, on_commit: Callable[[set[str]], None]) -> None:
        self.dialect = dialect
        self.where = backend.where
        self._backend = backend
        self._on_commit = on_commit
        self._readers = ThreadPoolExecutor(backend.readers, thread_name_prefix="dstack-db-read")
        self._gate = threading.Lock()  # taken twice by each call: a condition's own methods cost ten times as much
        self._idle = threading.Condition(self._gate)
        self._under_way = 0
        self._closed = False

    @classmethod
    def open(
        cls,
        url: str,
        *,
        clock: Clock,
        on_commit: Callable[[set[str]], None],
        connections: int = 8,
        backoff: Backoff | None = None,
    ) -> Database:
        """Open `sqlite:///PATH` or `postgresql://…`, whose schema `upgrade.ensure_schema` has seen to.

        `connections` and `backoff` matter on PostgreSQL only. Raises DatabaseError.
        """
        parsed = parse_url(url)
        if parsed.get_backend_name() == "sqlite":
            return cls(SqliteBackend(parsed.database or "", clock), "sqlite", on_commit)
        return cls(PostgresqlBackend(parsed, connections=connections, backoff=backoff), "postgresql", on_commit)

    def write(self, name: str, work: Callable[[Transaction], T]) -> T:
        """Run `work` in a transaction and commit it; whatever it raises rolls back and comes out here.

        Raises DatabaseError, and KeyError for a name that `declare_write` never saw.
        """
        points = _writes.get(name)
        if points is None:
            raise KeyError(f"the write {name!r} is not declared (see declare_write)")
        topics: set[str] = set()
        self._enter()
        try:
            result = self._backend.write(work, *points, topics)
        finally:
            self._leave()
        if topics:
            self._tell(topics)
        return result

    def read(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` on one unchanging state of the database. Raises DatabaseError."""
        self._enter()
        try:
            return self._backend.read(work)
        finally:
            self._leave()

    async def aread(self, work: Callable[[Transaction], T]) -> T:
        """`read` off the event loop."""
        self._check_open()
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read, work)

    def close(self) -> None:
        """Finish what is under way, in whatever thread, and close; later calls raise DatabaseUnavailable."""
        with self._gate:
            if self._closed:
                return
            self._closed = True
            self._idle.wait_for(lambda: self._under_way == 0)
        self._readers.shutdown(wait=True)
        self._backend.close()

    def _check_open(self) -> None:
        if self._closed:
            raise DatabaseUnavailable(f"the database {self.where} is closed: this server is stopping")

    def _enter(self) -> None:
        with self._gate:
            self._check_open()
            self._under_way += 1

    def _leave(self) -> None:
        with self._gate:
            self._under_way -= 1
            if self._closed:
                self._idle.notify_all()

    def _tell(self, topics: set[str]) -> None:
        try:
            self._on_commit(topics)
        except Exception:  # noqa: BLE001 -- whatever a listener does, this is true:
            # it is committed, so the caller must hear of success; waiters lose no more than a tick.
            _log.exception("telling waiters about %s failed", sorted(topics))


def parse_url(url: str) -> URL:
    """The parts of a database URL; raises DatabaseError for one that is neither SQLite's nor PostgreSQL's."""
    try:
        parsed = make_url(url.replace("postgres://", "postgresql://", 1) if url.startswith("postgres://") else url)
    except ArgumentError:
        raise DatabaseError(_URL_HELP.format("it cannot be read")) from None
    backend = parsed.get_backend_name()
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise DatabaseError(_URL_HELP.format("SQLite needs a file"))
    if backend not in ("sqlite", "postgresql"):
        raise DatabaseError(_URL_HELP.format(f"{backend!r} is not supported"))
    return parsed


_URL_HELP = "bad database URL: {}. Use sqlite:////absolute/path.db or postgresql://user:password@host:5432/database."
