"""SQLite locked, full, read-only (F15), and what a read-only place looks like to a person."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select, text

from dstack.server.db.engine import Database, Transaction, declare_write
from dstack.server.db.errors import DatabaseFull, DatabaseUnavailable
from dstack.server.db.sqlite import SqliteBackend
from dstack.server.db.tables import SYSTEM, meta
from dstack.server.db.upgrade import ensure_schema
from tests.support.ports import FakeClock

WRITE = declare_write("test-sqlite")

_count = select(func.count()).select_from(meta).where(meta.c.key != "dstack_version")


def put(database: Database, key: str, value: str = "") -> None:
    database.write(WRITE, lambda tx: tx.execute(meta.insert(), {"project_id": SYSTEM, "key": key, "value": value}))


def count(database: Database) -> int:
    return database.read(lambda tx: tx.execute(_count).scalar_one())


def whole(path: Path) -> bool:
    connection = sqlite3.connect(path)
    try:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()


@pytest.fixture
def path(sqlite_url: str) -> Path:
    return Path(sqlite_url.removeprefix("sqlite:///"))


@pytest.fixture
def impatient(path: Path, clock: FakeClock) -> Iterator[Database]:
    """A database that waits 10 ms for a lock."""
    database = Database(SqliteBackend(str(path), clock, busy_timeout=0.01), "sqlite", lambda _: None)
    yield database
    database.close()


def test_locked_by_another_program(impatient: Database, path: Path) -> None:
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable, match=r"dstack\.db is locked by another program .*a backup"):
            put(impatient, "during")
    assert count(impatient) == 0, "readers go on"
    holder.execute("ROLLBACK")
    holder.close()
    put(impatient, "after")
    assert count(impatient) == 1
    assert whole(path)


def test_full(impatient: Database, path: Path) -> None:
    put(impatient, "before")

    def limit(tx: Transaction, pages: int) -> None:
        tx.execute(text(f"PRAGMA max_page_count = {pages}"))

    impatient.write(WRITE, lambda tx: limit(tx, 1))  # SQLite raises it to what is there
    with pytest.raises(DatabaseFull, match=r"no space left for the database .*dstack\.db .* nothing was lost"):
        put(impatient, "large", "x" * 1_000_000)
    assert count(impatient) == 1
    impatient.write(WRITE, lambda tx: limit(tx, 1_000_000))
    put(impatient, "large", "x" * 1_000_000)
    assert count(impatient) == 2
    assert whole(path)


def test_a_write_inside_a_write_is_refused(impatient: Database) -> None:
    with pytest.raises(RuntimeError, match="a write inside a write"):
        impatient.write(WRITE, lambda tx: put(impatient, "inner"))
    put(impatient, "next")
    assert count(impatient) == 1


_WRITE_AS_SOMEBODY = """
import os, sys
from dstack.domain.ports import SystemClock
from dstack.server.db.engine import Database, DatabaseError, declare_write
from dstack.server.db.tables import SYSTEM, meta
from dstack.server.db.upgrade import ensure_schema
if os.geteuid() == 0:
    os.seteuid(65534)
declare_write("test")
try:
    ensure_schema(sys.argv[1])
    database = Database.open(sys.argv[1], clock=SystemClock(), on_commit=print)
    database.write("test", lambda tx: tx.execute(meta.insert(), {"project_id": SYSTEM, "key": "k", "value": ""}))
except DatabaseError as error:
    print(type(error).__name__, error)
else:
    print("stored")
"""


def write_as_somebody(path: Path) -> str:
    """Write to `path` as an account without special rights; what it says."""
    command = [sys.executable, "-c", _WRITE_AS_SOMEBODY, f"sqlite:///{path}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other accounts can look into."""
    with tempfile.TemporaryDirectory(prefix="dstack-test-") as name:
        os.chmod(name, 0o755)
        yield Path(name)
        os.chmod(name, 0o755)


def test_read_only_folder_without_a_database(folder: Path) -> None:
    path = folder / "dstack.db"
    folder.chmod(0o555)
    said = write_as_somebody(path)
    assert said.startswith(f"DatabaseUnavailable the database {path} cannot be opened")
    assert "this user may write there" in said
    assert not path.exists()


@pytest.mark.parametrize(("folder_mode", "file_mode"), [(0o555, 0o666), (0o555, 0o444), (0o777, 0o444)])
def test_read_only_database(folder: Path, folder_mode: int, file_mode: int) -> None:
    path = folder / "dstack.db"
    ensure_schema(f"sqlite:///{path}")
    path.chmod(file_mode)
    folder.chmod(folder_mode)
    said = write_as_somebody(path)
    assert said.startswith(f"DatabaseReadOnly the database {path} cannot be written")
    assert "DSTACK_HOME" in said
    folder.chmod(0o755)
    path.chmod(0o644)
    assert whole(path)
