"""PostgreSQL: a pool of connections; conflicts are run again, a lost connection once."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from sqlalchemy import URL, Connection, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from dstack.domain import faults
from dstack.server.db import errors
from dstack.server.db.transaction import Transaction

T = TypeVar("T")

TRIES = 8
"""How often a write that conflicts with others is run, in all."""

POOL_PATIENCE = 10.0
"""Seconds to wait for one of our own connections to be free."""


class Backoff(Protocol):
    """How long to wait before a conflicting write is run again; a port, so that tests need not wait."""

    def pause(self, tried: int) -> None:
        """Wait after the `tried`-th try (from 1)."""
        ...


class Jitter:
    """Up to 5 ms after the first try, doubling up to 0.5 s, spread evenly so that rivals part."""

    def pause(self, tried: int) -> None:
        most = min(0.5, 0.005 * 2 ** (tried - 1))
        time.sleep(random.uniform(0, most))  # noqa: S311 -- no secret hangs on it


_NOW = text("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")

# A dead server is noticed within about 15 s even where no packet says so.
_CONNECT: dict[str, Any] = {
    "connect_timeout": 5,
    "application_name": "dstack",
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}


class PostgresqlBackend:
    """`write` and `read` may be called from any thread, as many at once as there are connections."""

    def __init__(
        self, url: URL, *, connections: int = 8, backoff: Backoff | None = None, patience: float = POOL_PATIENCE
    ) -> None:
        self.where = url.render_as_string(hide_password=True)
        self.readers = connections
        self._backoff = backoff or Jitter()
        engine = create_engine(
            driver_url(url),
            pool_size=connections,
            max_overflow=0,
            pool_timeout=patience,
            pool_use_lifo=True,
            isolation_level="READ COMMITTED",
            connect_args=_CONNECT,
            execution_options={"preserve_rowcount": True},  # of INSERTs too, for `ON CONFLICT DO NOTHING`
        )
        self._writes = engine
        self._reads = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    def write(self, work: Callable[[Transaction], T], before: str, after: str, topics: set[str]) -> T:
        """Run `work` in a transaction of its own and commit it, between the fault points `before` and `after`.

        `work` runs again after a conflict with others, and once more after the connection broke before the commit.
        """
        tried, reconnected = 0, False
        while True:
            tried += 1
            topics.clear()
            attempt = _Attempt()
            try:
                return self._write(work, before, after, topics, attempt)
            except DBAPIError as error:
                conflict = errors.sqlstate(error) in errors.RETRIED
                if conflict and tried < TRIES:
                    self._backoff.pause(tried)
                elif error.connection_invalidated and attempt.connected and not attempt.committing and not reconnected:
                    reconnected = True  # the pool kept a connection from before the database restarted
                elif attempt.committing and error.connection_invalidated:
                    raise self._unknown(error) from error
                elif ours := errors.from_postgresql(error, self.where):
                    raise ours from error
                else:
                    raise
            except PoolTimeout as error:
                raise errors.all_busy(self.where) from error

    def read(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` on one unchanging state of the database; again, once, if the connection broke."""
        reconnected = False
        while True:
            attempt = _Attempt()
            try:
                with self._reads.connect() as connection:
                    attempt.connected = True
                    return work(Transaction(connection, lambda: _now(connection), None))
            except DBAPIError as error:
                if error.connection_invalidated and attempt.connected and not reconnected:
                    reconnected = True
                elif ours := errors.from_postgresql(error, self.where):
                    raise ours from error
                else:
                    raise
            except PoolTimeout as error:
                raise errors.all_busy(self.where) from error

    def close(self) -> None:
        self._writes.dispose()

    def _write(
        self, work: Callable[[Transaction], T], before: str, after: str, topics: set[str], attempt: _Attempt
    ) -> T:
        with self._writes.connect() as connection:
            attempt.connected = True
            transaction = connection.begin()
            try:
                result = work(Transaction(connection, lambda: _now(connection), topics))
                faults.point(before)
                attempt.committing = True
                transaction.commit()
            except BaseException:
                if transaction.is_active:
                    transaction.rollback()
                raise
        faults.point(after)
        return result

    def _unknown(self, error: DBAPIError) -> errors.CommitUnknown:
        return errors.CommitUnknown(
            f"the connection to the database {self.where} broke during a commit ({error.orig}), so it may or may "
            "not have been stored. Look before you repeat it."
        )


class _Attempt:
    """How far one try of a write came."""

    __slots__ = ("committing", "connected")

    def __init__(self) -> None:
        self.connected = False
        self.committing = False


def driver_url(url: URL) -> URL:
    """The same address for the driver we use, psycopg 3."""
    return url.set(drivername="postgresql+psycopg")


def _now(connection: Connection) -> int:
    return connection.execute(_NOW).scalar_one()
