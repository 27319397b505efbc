"""What the workflow language, secrets and metrics need; submissions leave the hot rows of runs."""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

from dstack.server.db.migrations.forms import big, blob, child_of, create, flag, index, num, pk, real, txt, uid

revision = "0002"
down_revision = "0001"


# fmt: off
def upgrade() -> None:
    create(
        "submissions",
        uid("project_id"), uid("run_id"), blob("body"), blob("diff", null=True),
        pk("project_id", "run_id"), child_of("runs", "run_id"),
    )
    op.execute(
        text("INSERT INTO submissions (project_id, run_id, body)"
             " SELECT project_id, id, submission FROM runs WHERE submission IS NOT NULL")
    )
    op.drop_column("runs", "submission")
    create(
        "run_values",
        uid("project_id"), uid("run_id"), txt("name"), blob("value"),
        pk("project_id", "run_id", "name"), child_of("runs", "run_id"),
    )
    create(
        "attempt_secrets",
        uid("project_id"), uid("run_id"), uid("attempt_id"), txt("name"), blob("value"),
        pk("project_id", "run_id", "attempt_id", "name"), child_of("runs", "run_id"),
    )
    op.add_column("jobs", num("unstarted", default="0"))
    op.add_column("steps", flag("fail_fast"))
    op.add_column("steps", flag("continue_on_failure"))
    op.add_column("steps", flag("need_failed"))
    op.add_column("steps", flag("need_skipped"))
    create(
        "package_lists",
        uid("project_id"), blob("digest"), blob("packages"), pk("project_id", "digest"),
    )
    op.add_column("attempts", blob("packages", null=True))
    op.add_column("attempts", big("metrics_length", default="0"))
    create(
        "metrics",
        uid("project_id"), uid("attempt_id"), txt("name"), big("seq"), uid("run_id"), uid("job_id"), num("attempt"),
        big("step", null=True), big("at"), real("value", null=True),
        pk("project_id", "attempt_id", "name", "seq"), child_of("runs", "run_id"),
    )
    index("ix_metrics_run", "metrics", "project_id", "run_id", "job_id", "attempt", "name", "seq")
# fmt: on
