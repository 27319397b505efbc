"""Bring a database to the schema of this dstack, or say which dstack it needs.

All steps of an upgrade are one transaction on both databases, so an upgrade that is killed has not happened and
runs again from its start. Programs that start at once take turns, and the second finds nothing left to do.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, NullPool, create_engine, inspect, text
from sqlalchemy.exc import DBAPIError

from dstack import __version__
from dstack.domain import faults
from dstack.server.db import errors
from dstack.server.db.engine import declare_write, parse_url
from dstack.server.db.errors import DatabaseError, SchemaTooNew
from dstack.server.db.migrations import HEAD, REVISIONS
from dstack.server.db.postgresql import driver_url
from dstack.server.db.sqlite import connect
from dstack.server.db.tables import SYSTEM

MIGRATE = declare_write("migrate")

LOCK_TIMEOUT = 60.0
"""Seconds to wait for another program that is upgrading the same database."""

_ADVISORY_LOCK = 0x6473_7461_636B  # "dstack"; PostgreSQL's advisory locks are numbers


def ensure_schema(url: str) -> bool:
    """Create or upgrade the schema at `url`; True if anything had to be done.

    Raises SchemaTooNew for a database that a newer dstack has upgraded, else DatabaseError.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        path = parsed.database or ""
        try:
            return not _sqlite_is_current(path) and _upgrade_sqlite(path)
        except (sqlite3.Error, DBAPIError) as error:
            if ours := errors.from_sqlite(error, path):
                raise ours from error
            raise
    where = parsed.render_as_string(hide_password=True)
    try:
        return _upgrade_postgresql(driver_url(parsed).render_as_string(hide_password=False), where)
    except DBAPIError as error:
        if ours := errors.from_postgresql(error, where):
            raise ours from error
        raise


def _sqlite_is_current(path: str) -> bool:
    """Whether there is nothing to do, found out without a lock and without importing alembic."""
    if not Path(path).exists():
        return False
    with closing(connect(path)) as raw:
        try:
            rows = raw.execute("SELECT version_num FROM alembic_version").fetchall()
        except sqlite3.OperationalError as error:
            if errors.from_sqlite(error, path):
                raise
            return False  # no such table
    return rows == [(HEAD,)]


def _upgrade_sqlite(path: str) -> bool:
    engine = create_engine("sqlite://", creator=lambda: connect(path, LOCK_TIMEOUT), poolclass=NullPool)
    with engine.connect() as connection:
        raw = connection.connection.dbapi_connection
        assert isinstance(raw, sqlite3.Connection)
        raw.execute("PRAGMA foreign_keys = OFF")  # tables are rebuilt to change them; checked as a whole at the end
        raw.execute("BEGIN IMMEDIATE")
        with _committed(connection):
            changed = _upgrade(connection, path)
            broken = raw.execute("PRAGMA foreign_key_check").fetchone() if changed else None
            if broken is not None:
                raise DatabaseError(f"upgrading {path} would leave rows of {broken[0]!r} without their parents")
    return changed


def _upgrade_postgresql(url: str, where: str) -> bool:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection, _committed(connection):
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        return _upgrade(connection, where)


@contextmanager
def _committed(connection: Connection) -> Generator[None]:
    with connection.begin():
        yield
        faults.point(f"commit:{MIGRATE}:before")
    faults.point(f"commit:{MIGRATE}:after")


def _upgrade(connection: Connection, where: str) -> bool:
    """Run what is missing inside the caller's transaction, which excludes everybody else."""
    revision = _revision(connection)
    if revision == HEAD:
        return False
    if revision is not None and revision not in REVISIONS:
        raise _too_new(connection, where, revision)
    _run_alembic(connection)
    row: dict[str, Any] = {"project": SYSTEM.bytes if connection.dialect.name == "sqlite" else SYSTEM}
    connection.execute(text("DELETE FROM meta WHERE project_id = :project AND key = 'dstack_version'"), row)
    row["version"] = __version__
    connection.execute(text("INSERT INTO meta VALUES (:project, 'dstack_version', :version)"), row)
    return True


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _too_new(connection: Connection, where: str, revision: str) -> SchemaTooNew:
    writer = "a newer version"
    if inspect(connection).has_table("meta"):
        found = connection.execute(text("SELECT value FROM meta WHERE key = 'dstack_version'")).scalar()
        writer = found or writer
    wanted = f"dstack {writer}" if writer[0].isdigit() else f"{writer} of dstack"
    return SchemaTooNew(
        f"the database {where} was upgraded by {wanted} (schema {revision}), and this is dstack {__version__}, which "
        f"knows schemas up to {HEAD}. Install {wanted} or newer, or point this one at another database."
    )


def _run_alembic(connection: Connection) -> None:
    # Imported here, because starting on an up-to-date database has no time for it.
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    command.upgrade(config, "head")
