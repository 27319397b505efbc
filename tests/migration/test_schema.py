"""The migrations make exactly the tables that the code names, on both databases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import NullPool, create_engine, inspect, text

from dstack.server.db import migrations
from dstack.server.db.engine import parse_url
from dstack.server.db.postgresql import driver_url
from dstack.server.db.tables import metadata
from tests.support.postgres import PostgresServer

_POSTGRESQL_CATALOG = {
    "columns": """
        SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
               pg_get_expr(d.adbin, d.adrelid)
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND a.attnum > 0
          AND NOT a.attisdropped
    """,
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace
    """,
    "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
}


# The texts of statements are not compared: a column that a migration adds stands behind the table's constraints.
_SQLITE_CATALOG = {
    "tables": "SELECT name, type, wr, strict FROM pragma_table_list WHERE schema = 'main' AND name NOT LIKE 'sqlite%'",
    "columns": """
        SELECT m.name, c.name, c.type, c."notnull", c.dflt_value, c.pk
        FROM sqlite_master m JOIN pragma_table_xinfo(m.name) c WHERE m.type = 'table'
    """,
    "foreign keys": """
        SELECT m.name, f."table", f."from", f."to", f.on_update, f.on_delete, f.seq
        FROM sqlite_master m JOIN pragma_foreign_key_list(m.name) f WHERE m.type = 'table'
    """,
    "keys": """
        SELECT m.name, l.name, l."unique", l.origin, l.partial, x.seqno, x.name, x."desc"
        FROM sqlite_master m JOIN pragma_index_list(m.name) l JOIN pragma_index_xinfo(l.name) x WHERE m.type = 'table'
    """,
    "indexes": "SELECT tbl_name, name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL",
}


def catalog(url: str) -> dict[str, Any]:
    """Everything a database says of its own schema, alembic's table apart."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        queries = _SQLITE_CATALOG
    else:
        queries, parsed = _POSTGRESQL_CATALOG, driver_url(parsed)
    with create_engine(parsed, poolclass=NullPool).connect() as connection:
        rows = {name: [tuple(row) for row in connection.execute(text(query))] for name, query in queries.items()}
    return {
        name: sorted((row for row in found if "alembic_version" not in row), key=str) for name, found in rows.items()
    }


@pytest.fixture
def modelled_url(database_url: str, tmp_path: Path, postgres_server: PostgresServer) -> str:
    """A database of the same kind as `database_url`, made from the metadata instead of by migrations."""
    if database_url.startswith("sqlite"):
        url = f"sqlite:///{tmp_path / 'modelled.db'}"
    else:
        url = postgres_server.url(postgres_server.new_database())
    parsed = parse_url(url)
    with create_engine(
        parsed if parsed.get_backend_name() == "sqlite" else driver_url(parsed), poolclass=NullPool
    ).begin() as connection:
        metadata.create_all(connection)
    return url


def test_migrated_schema_is_the_modelled_one(database_url: str, modelled_url: str) -> None:
    migrated, modelled = catalog(database_url), catalog(modelled_url)
    assert all(modelled.values()), "the catalog query sees the tables"
    for what, rows in modelled.items():
        assert migrated[what] == rows


def test_every_key_and_index_begins_with_the_project(database_url: str) -> None:
    parsed = parse_url(database_url)
    engine = create_engine(parsed if parsed.get_backend_name() == "sqlite" else driver_url(parsed), poolclass=NullPool)
    with engine.connect() as connection:
        inspector = inspect(connection)
        tables = [name for name in inspector.get_table_names() if name != "alembic_version"]
        assert set(tables) == set(metadata.tables)
        for table in tables:
            keys = [inspector.get_pk_constraint(table)["constrained_columns"]]
            keys += [unique["column_names"] for unique in inspector.get_unique_constraints(table)]
            keys += [index["column_names"] for index in inspector.get_indexes(table)]
            if table == "projects":  # its rows are the projects, whose names are unique in the deployment
                keys.remove(["name"])
                keys = [key for key in keys if key != ["name"]]
            assert all(key[0] == "project_id" for key in keys), table


def test_revisions_are_those_alembic_finds() -> None:
    folder = Path(migrations.__file__).parent
    config = Config()
    config.set_main_option("script_location", str(folder))
    scripts = ScriptDirectory.from_config(config)
    assert tuple(script.revision for script in scripts.walk_revisions())[::-1] == migrations.REVISIONS
    assert scripts.get_heads() == [migrations.HEAD]
