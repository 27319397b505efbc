"""Databases for tests that make many: PostgreSQL is emptied between them, which is ten times quicker than a new one."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from dstack.server.db.tables import metadata
from tests.conftest import DATABASES
from tests.support.postgres import PostgresServer


@pytest.fixture(scope="session")
def shared_postgresql(postgres_server: PostgresServer, postgresql_template: str) -> Iterator[str]:
    """The URL of a migrated PostgreSQL database that tests of this process use in turn."""
    name = postgres_server.new_database(template=postgresql_template)
    yield postgres_server.url(name)
    postgres_server.drop(name)


@pytest.fixture
def emptied_postgresql(shared_postgresql: str) -> Iterator[str]:
    """That database, without a row in it."""
    yield shared_postgresql
    empty(shared_postgresql)


def empty(postgresql: str) -> None:
    """Take every row out of the database with this URL."""
    tables = ", ".join(f'"{table.name}"' for table in metadata.sorted_tables)
    with psycopg.connect(postgresql.replace("postgresql+psycopg", "postgresql"), autocommit=True) as connection:
        connection.execute(f"TRUNCATE {tables}")  # type: ignore[arg-type]


@pytest.fixture(params=DATABASES)
def emptied_url(request: pytest.FixtureRequest) -> str:
    """A migrated database of each kind without a row in it."""
    return request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "emptied_postgresql")
