"""`ensure_schema`: fresh, current, newer, two at once, killed midway."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine, NullPool, create_engine, inspect, text

from dstack import __version__
from dstack.server.db.engine import Database, declare_write, parse_url
from dstack.server.db.errors import DatabaseDamaged, DatabaseError, DatabaseUnavailable, SchemaTooNew
from dstack.server.db.postgresql import driver_url
from dstack.server.db.tables import metadata
from dstack.server.db.upgrade import ensure_schema
from tests.support.ports import FakeClock

SET_UP = declare_write("test-upgrade-set-up")


def engine_of(url: str) -> Engine:
    parsed = parse_url(url)
    return create_engine(parsed if parsed.get_backend_name() == "sqlite" else driver_url(parsed), poolclass=NullPool)


def tables_of(url: str) -> set[str]:
    with engine_of(url).connect() as connection:
        return set(inspect(connection).get_table_names())


def upgrade_in_child(url: str, fault: str = "") -> subprocess.Popen[str]:
    code = "import sys; from dstack.server.db.upgrade import ensure_schema; print(ensure_schema(sys.argv[1]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True, env=os.environ | {"DSTACK_FAULT": fault}
    )


def test_fresh_then_current(empty_url: str) -> None:
    assert ensure_schema(empty_url) is True
    assert tables_of(empty_url) == set(metadata.tables) | {"alembic_version"}
    assert ensure_schema(empty_url) is False


def test_current_database_is_opened_without_alembic(sqlite_url: str) -> None:
    code = (
        "import sys; from dstack.server.db.upgrade import ensure_schema; from dstack.server.db.engine import Database;"
        "from dstack.domain.ports import SystemClock; assert not ensure_schema(sys.argv[1]);"
        "Database.open(sys.argv[1], clock=SystemClock(), on_commit=print).close();"
        "assert not {'alembic', 'psycopg'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, sqlite_url], check=True)


def test_newer_database_names_the_version_it_needs(database_url: str) -> None:
    with engine_of(database_url).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0999'"))
        connection.execute(text("UPDATE meta SET value = '9.8.7' WHERE key = 'dstack_version'"))
    with pytest.raises(SchemaTooNew, match=rf"upgraded by dstack 9\.8\.7 .*this is dstack {__version__}"):
        ensure_schema(database_url)


@pytest.mark.parametrize("point", ["commit:migrate:before", "commit:migrate:after"])
def test_killed_migration_runs_again(empty_url: str, point: str) -> None:
    child = upgrade_in_child(empty_url, fault=point)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    happened = point.endswith("after")
    assert tables_of(empty_url) == (set(metadata.tables) | {"alembic_version"} if happened else set())
    assert ensure_schema(empty_url) is not happened
    assert tables_of(empty_url) == set(metadata.tables) | {"alembic_version"}


def test_upgrades_at_once_take_turns(empty_url: str) -> None:
    ensure = [upgrade_in_child(empty_url) for _ in range(3)]
    answers = sorted(child.communicate()[0].strip() for child in ensure)
    assert answers == ["False", "False", "True"]


def test_not_a_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_text("these are my notes, not a database\n" * 100)
    with pytest.raises(DatabaseDamaged, match=r"notes\.db is damaged or no database"):
        ensure_schema(f"sqlite:///{path}")
    assert path.read_text().startswith("these are my notes"), "it was left alone"


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match=r"cannot be opened .* Check that its folder exists"):
        ensure_schema(f"sqlite:///{tmp_path / 'nowhere' / 'dstack.db'}")


def test_unreachable_server(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="cannot be reached") as raised:
        ensure_schema(f"postgresql://me:hunter2@/dstack?host={tmp_path}")
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://x/y", "nonsense"])
def test_bad_url(url: str) -> None:
    with pytest.raises(DatabaseError, match=r"bad database URL: .* Use sqlite:"):
        ensure_schema(url)


def test_file_is_private(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "dstack.db"
    ensure_schema(f"sqlite:///{path}")
    database = Database.open(f"sqlite:///{path}", clock=clock, on_commit=lambda _: None)
    database.write(SET_UP, lambda tx: tx.execute(text("INSERT INTO meta VALUES (x'00', 'a', 'b')")))
    assert {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {
        "dstack.db": 0o600,
        "dstack.db-wal": 0o600,
        "dstack.db-shm": 0o600,
    }
    database.close()
    assert [file.name for file in tmp_path.iterdir()] == ["dstack.db"], "closing folds the log into the file"
