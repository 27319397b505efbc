"""Since when something is doubted: what a repair took out is remembered for as long as somebody may rely on it."""

from __future__ import annotations

from alembic import op

from dstack.server.db.migrations.forms import big

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("doubtful_objects", big("doubted_at", default="0"))
