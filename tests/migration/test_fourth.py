"""Revision 0004 takes nothing from those who save while it runs: every pack counts as asked about just now."""

from __future__ import annotations

import time
from pathlib import Path
from uuid import UUID

from alembic import command
from alembic.config import Config
from sqlalchemy import NullPool, create_engine, insert, select, table
from sqlalchemy.sql.expression import column

from dstack.server.db import migrations
from dstack.server.db.engine import parse_url
from dstack.server.db.postgresql import driver_url
from dstack.server.db.tables import packs
from dstack.server.db.upgrade import ensure_schema


def test_packs_that_are_there_count_as_asked_about(empty_url: str) -> None:
    parsed = parse_url(empty_url)
    engine = create_engine(parsed if parsed.get_backend_name() == "sqlite" else driver_url(parsed), poolclass=NullPool)
    row = {"project_id": UUID(int=1), "pack_id": b"p" * 32, "size": 5, "created_at": 7}
    with engine.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        command.upgrade(config, "0003")
        # Only the columns of then, with the types of now.
        connection.execute(insert(table("packs", *(column(name, packs.c[name].type) for name in row))).values(**row))
    before = time.time_ns() // 1000
    ensure_schema(empty_url)
    with engine.connect() as connection:
        (found,) = connection.execute(select(packs)).all()
    assert abs(found.asked_at - before) < 3_600_000_000, "the clock of the database, to the hour"
    assert (found.created_at, found.condemned_at) == (7, None)
