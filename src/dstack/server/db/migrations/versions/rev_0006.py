"""What the last save of an attempt could not save as it was."""

from __future__ import annotations

from alembic import op

from dstack.server.db.migrations.forms import blob

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("attempts", blob("save_warnings", null=True))
