"""What collecting garbage needs to know of packs, how long things are kept, and what keeps an attempt from saving."""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

from dstack.server.db.migrations.forms import big, blob, create, index, num, pk, txt, uid

revision = "0004"
down_revision = "0003"


# fmt: off
def upgrade() -> None:
    op.add_column("packs", big("asked_at", default="0"))
    op.add_column("packs", big("condemned_at", null=True))
    # Whoever saves at this moment may have been told of any pack: as if all were asked about just now.
    now = {
        "sqlite": "CAST(strftime('%s', 'now') AS INTEGER) * 1000000",
        "postgresql": "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
    }
    op.execute(text(f"UPDATE packs SET asked_at = {now[op.get_bind().dialect.name]}"))  # noqa: S608 -- our own words
    index("ix_chunks_pack", "chunks", "project_id", "pack_id")
    create("doubtful_objects", uid("project_id"), blob("object_id"), pk("project_id", "object_id"))
    create(
        "retention",
        uid("project_id"), big("live"), big("every"), num("last"), big("partials"), big("runs", null=True),
        txt("set_by", null=True), big("set_at"),
        pk("project_id"),
    )
    op.add_column("attempts", txt("save_problem", null=True))
# fmt: on
