"""Revision 0003 finds in the plans of earlier runs what they were given."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
from alembic import command
from alembic.config import Config
from sqlalchemy import NullPool, create_engine, insert, select, table
from sqlalchemy.sql.expression import column

from dstack.server.db import migrations
from dstack.server.db.engine import parse_url
from dstack.server.db.postgresql import driver_url
from dstack.server.db.tables import run_sources, runs, steps
from dstack.server.db.upgrade import ensure_schema

PROJECT, RUN = UUID(int=1), UUID(int=2)


def row(known: Any, **values: Any) -> Any:
    """An insert that names only these columns, with the types of `known`."""
    named = table(known.name, *(column(name, known.c[name].type) for name in values))
    return insert(named).values(**values)


def test_earlier_runs_are_found_from_both_ends(empty_url: str) -> None:
    parsed = parse_url(empty_url)
    engine = create_engine(parsed if parsed.get_backend_name() == "sqlite" else driver_url(parsed), poolclass=NullPool)
    plans = [
        {"inputs": [{"run_name": "odd-cat-1"}, {"run_name": "old-cow-1"}]},
        {"inputs": [{"run_name": "odd-cat-1"}]},
        {},
    ]
    with engine.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        command.upgrade(config, "0002")
        connection.execute(
            row(
                runs,
                project_id=PROJECT,
                id=RUN,
                repository_id=RUN,
                name="new-bee-1",
                workflow="w",
                state="done",
                submitted_at=1,
            )
        )
        for position, plan in enumerate(plans):
            connection.execute(
                row(
                    steps, project_id=PROJECT, id=UUID(int=10 + position), run_id=RUN, position=position, name="s",
                    workflow="w", provider="p", state="done", plan=msgspec.msgpack.encode(plan),
                )
            )  # fmt: skip
    ensure_schema(empty_url)
    with engine.connect() as connection:
        found = connection.execute(select(run_sources).order_by(run_sources.c.source)).all()
    assert [tuple(each) for each in found] == [(PROJECT, RUN, "odd-cat-1"), (PROJECT, RUN, "old-cow-1")]
