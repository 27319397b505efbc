"""Which runs used artifacts of which: found from either end."""

from __future__ import annotations

import msgspec
from alembic import op
from sqlalchemy import text

from dstack.server.db.migrations.forms import child_of, create, index, pk, txt, uid

revision = "0003"
down_revision = "0002"


# fmt: off
def upgrade() -> None:
    create(
        "run_sources",
        uid("project_id"), uid("run_id"), txt("source"),
        pk("project_id", "run_id", "source"), child_of("runs", "run_id"),
    )
    index("ix_run_sources_source", "run_sources", "project_id", "source", "run_id")
    connection = op.get_bind()
    found = {
        (project_id, run_id, item["run_name"])
        for project_id, run_id, plan in connection.execute(
            text("SELECT project_id, run_id, plan FROM steps WHERE plan IS NOT NULL")
        )
        for item in msgspec.msgpack.decode(plan).get("inputs", ())
    }
    if found:
        connection.execute(
            text("INSERT INTO run_sources (project_id, run_id, source) VALUES (:project_id, :run_id, :source)"),
            [dict(zip(("project_id", "run_id", "source"), row, strict=True)) for row in found],
        )
# fmt: on
