"""PostgreSQL restarted, crashed, full of connections, read-only, in conflict (F14)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest
from sqlalchemy import bindparam, select, text, update

from dstack.server.db.engine import Database, Transaction, declare_write, parse_url
from dstack.server.db.errors import CommitUnknown, DatabaseReadOnly, DatabaseUnavailable
from dstack.server.db.postgresql import TRIES, PostgresqlBackend
from dstack.server.db.tables import SYSTEM, meta
from dstack.server.db.upgrade import ensure_schema
from tests.support.ports import FakeBackoff, FakeClock
from tests.support.postgres import PostgresServer

WRITE = declare_write("test-postgresql")

_set = update(meta).where(meta.c.key == bindparam("row")).values(value=bindparam("to"))
_keys = select(meta.c.key).where(meta.c.key != "dstack_version").order_by(meta.c.key)


def put(database: Database, key: str) -> None:
    database.write(WRITE, lambda tx: tx.execute(meta.insert(), {"project_id": SYSTEM, "key": key, "value": ""}))


def keys(database: Database) -> list[str]:
    return list(database.read(lambda tx: tx.execute(_keys).scalars().all()))


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A server that a test may stop."""
    server = PostgresServer.create()
    yield server
    server.close()


@pytest.fixture
def opened(postgresql_url: str, clock: FakeClock, backoff: FakeBackoff) -> Iterator[Database]:
    database = Database.open(postgresql_url, clock=clock, on_commit=lambda _: None, backoff=backoff)
    yield database
    database.close()


@pytest.fixture
def admin(postgresql_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        yield connection


def end_other_connections(admin: psycopg.Connection) -> None:
    # The second argument waits until each is gone.
    admin.execute(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["restart", "crash"])
def test_server_goes_and_comes_back(own_server: PostgresServer, clock: FakeClock, how: signal.Signals) -> None:
    url = own_server.url(own_server.new_database())
    ensure_schema(url)
    with closing(Database.open(url, clock=clock, on_commit=lambda _: None)) as database:
        put(database, "before")
        own_server.stop(how)
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable, match=r"cannot be reached .* goes on by itself once it is back"):
                put(database, "during")
            with pytest.raises(DatabaseUnavailable):
                keys(database)
        own_server.start()
        put(database, "after")
        assert keys(database) == ["after", "before"]
        own_server.stop(how)
        own_server.start()
        assert keys(database) == ["after", "before"], "connections of the pool that broke unseen are made again"
        own_server.stop(how)
        own_server.start()
        put(database, "last")
        assert keys(database) == ["after", "before", "last"]


def test_connection_that_breaks_before_the_commit_runs_the_write_again(
    opened: Database, admin: psycopg.Connection
) -> None:
    tries = 0

    def work(tx: Transaction) -> None:
        nonlocal tries
        tries += 1
        tx.execute(meta.insert(), {"project_id": SYSTEM, "key": "once", "value": ""})
        tx.notify(f"try-{tries}")
        if tries == 1:
            end_other_connections(admin)
        tx.execute(text("SELECT 1"))

    opened.write(WRITE, work)
    assert tries == 2
    assert keys(opened) == ["once"]


def test_connection_that_breaks_every_time_is_told(opened: Database, admin: psycopg.Connection) -> None:
    tries = 0

    def work(tx: Transaction) -> None:
        nonlocal tries
        tries += 1
        tx.execute(meta.insert(), {"project_id": SYSTEM, "key": "never", "value": ""})
        end_other_connections(admin)
        tx.execute(text("SELECT 1"))

    with pytest.raises(DatabaseUnavailable):
        opened.write(WRITE, work)
    assert tries == 2
    assert keys(opened) == []


def test_connection_that_breaks_in_the_commit_is_not_repeated(opened: Database, admin: psycopg.Connection) -> None:
    tries = 0

    def work(tx: Transaction) -> None:
        nonlocal tries
        tries += 1
        tx.execute(meta.insert(), {"project_id": SYSTEM, "key": "unknown", "value": ""})
        end_other_connections(admin)

    with pytest.raises(CommitUnknown, match="broke during a commit"):
        opened.write(WRITE, work)
    assert tries == 1
    put(opened, "next")
    assert "next" in keys(opened)


def test_deadlock_is_run_again(opened: Database, backoff: FakeBackoff) -> None:
    put(opened, "a")
    put(opened, "b")
    both = threading.Barrier(2)

    def change(first: str, second: str) -> None:
        met = False

        def work(tx: Transaction) -> None:
            nonlocal met
            tx.execute(_set, {"row": first, "to": first + second})
            if not met:
                met = True
                both.wait(30)
            tx.execute(_set, {"row": second, "to": first + second})

        opened.write(WRITE, work)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(change, "a", "b"), pool.submit(change, "b", "a")]:
            done.result()
    assert 1 in backoff.paused, "there was a deadlock (and, without a pause, maybe another)"
    values = opened.read(lambda tx: tx.execute(select(meta.c.value).where(meta.c.key.in_(["a", "b"]))).scalars().all())
    assert len(set(values)) == 1, "one after the other, not a mixture"


def test_conflicts_without_end_are_told(opened: Database, backoff: FakeBackoff) -> None:
    conflict = text("DO $$ BEGIN RAISE serialization_failure USING MESSAGE = 'could not serialize'; END $$")
    with pytest.raises(DatabaseUnavailable, match="too many conflicting writes at once"):
        opened.write(WRITE, lambda tx: tx.execute(conflict))
    assert backoff.paused == list(range(1, TRIES))


def test_no_connection_to_spare(postgresql_url: str, admin: psycopg.Connection, clock: FakeClock) -> None:
    admin.execute("CREATE ROLE few LOGIN CONNECTION LIMIT 1")
    admin.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO few")
    url = postgresql_url.replace("postgres@", "few:hunter2@")
    database = Database.open(url, clock=clock, on_commit=lambda _: None)
    with psycopg.connect(url):
        with pytest.raises(DatabaseUnavailable, match=r"refused .* too many connections") as raised:
            put(database, "refused")
        end_other_connections(admin)  # and be sure that it is gone
    assert "hunter2" not in str(raised.value)
    put(database, "accepted")
    assert keys(database) == ["accepted"]
    database.close()
    admin.execute("DROP OWNED BY few")
    admin.execute("DROP ROLE few")


def test_all_of_our_own_connections_busy(postgresql_url: str) -> None:
    backend = PostgresqlBackend(parse_url(postgresql_url), connections=1, patience=0.01)
    database = Database(backend, "postgresql", lambda _: None)

    def work(tx: Transaction) -> None:
        tx.execute(text("SELECT 1"))
        keys(database)

    with pytest.raises(DatabaseUnavailable, match=r"every connection of this server to the database .* is busy"):
        database.write(WRITE, work)
    database.close()


def test_standby(opened: Database, admin: psycopg.Connection) -> None:
    name = admin.info.dbname
    admin.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')  # pyright: ignore[reportArgumentType, reportCallIssue] -- our own name
    with pytest.raises(DatabaseReadOnly, match=r"accepts no writes .* point dstack at the primary"):
        put(opened, "refused")
    assert keys(opened) == []
