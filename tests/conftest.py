"""Fixtures that all tests share: databases, of both kinds."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack.server.bus import Bus
from dstack.server.db.engine import Database
from dstack.server.db.upgrade import ensure_schema
from tests.support.ports import FakeBackoff, FakeClock, FakeIds
from tests.support.postgres import PostgresServer

DATABASES = ("sqlite", "postgresql")

# Under nohup, and in the background of a script, these are ignored, here and by every program that the tests start;
# some tests send them.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One real PostgreSQL for this process's tests. It never skips: where it cannot start, tests fail with why."""
    server = PostgresServer.create()
    yield server
    server.close()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite database, to copy."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    ensure_schema(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgresql_template(postgres_server: PostgresServer) -> str:
    """The name of a migrated PostgreSQL database, to copy."""
    name = postgres_server.new_database()
    ensure_schema(postgres_server.url(name))
    return name


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A fresh, migrated SQLite database."""
    path = tmp_path / "dstack.db"
    shutil.copyfile(sqlite_template, path)
    path.chmod(0o600)
    return f"sqlite:///{path}"


@pytest.fixture
def postgresql_url(postgres_server: PostgresServer, postgresql_template: str) -> Iterator[str]:
    """A fresh, migrated PostgreSQL database."""
    name = postgres_server.new_database(template=postgresql_template)
    yield postgres_server.url(name)
    postgres_server.drop(name)


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest) -> str:
    """A fresh, migrated database of each kind."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture(params=DATABASES)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A place for a database of each kind, with nothing in it."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.new_database()
    yield server.url(name)
    server.drop(name)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def ids() -> FakeIds:
    return FakeIds()


@pytest.fixture
def backoff() -> FakeBackoff:
    return FakeBackoff()


@pytest.fixture
def bus() -> Bus:
    return Bus()


@pytest.fixture
def database(database_url: str, clock: FakeClock, bus: Bus, backoff: FakeBackoff) -> Iterator[Database]:
    """An open, migrated, empty database of each kind; its commits reach `bus`."""
    opened = Database.open(database_url, clock=clock, on_commit=bus.publish_many, backoff=backoff)
    yield opened
    opened.close()
