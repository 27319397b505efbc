"""The first schema.

Revision 0001, the first. Written out on its own, so that what it makes never depends on today's `tables.py`;
`tests/migration` holds the two against each other.
"""

from __future__ import annotations

from dstack.server.db.migrations.forms import big, blob, child_of, create, flag, index, num, pk, txt, uid, unique

revision = "0001"
down_revision = None


def upgrade() -> None:
    tenancy()
    runs()
    runners()
    artifacts()


# A table's columns stand in groups, several to a line, so that the schema can be read as a whole.
# fmt: off


def tenancy() -> None:
    create(
        "meta",
        uid("project_id"), txt("key"), txt("value"), pk("project_id", "key"),
    )
    create(
        "projects",
        uid("project_id"), txt("name"), big("created_at"), pk("project_id"), unique("name"),
    )
    create(
        "users",
        uid("project_id"), uid("id"), txt("name"), txt("role", default="'member'"), big("created_at"),
        pk("project_id", "id"), unique("project_id", "name"),
    )
    create(
        "tokens",
        uid("project_id"), uid("id"), uid("user_id", null=True), txt("kind"), txt("prefix"), blob("digest"),
        big("created_at"), big("expires_at", null=True), big("used_at", null=True), pk("project_id", "id"),
        unique("project_id", "digest"),
    )
    create(
        "secrets",
        uid("project_id"), uid("repository_id"), txt("name"), blob("value"), txt("updated_by", null=True),
        big("updated_at"), pk("project_id", "repository_id", "name"),
    )
    create(
        "repositories",
        uid("project_id"), uid("id"), txt("key"), txt("name"), txt("root", null=True), big("created_at"),
        pk("project_id", "id"), unique("project_id", "key"),
    )
    create(
        "repository_aliases",
        uid("project_id"), txt("key"), uid("repository_id"), pk("project_id", "key"),
    )


def runs() -> None:
    create(
        "runs",
        uid("project_id"), uid("id"), uid("repository_id"), txt("name"), txt("workflow"), txt("state"),
        num("version", default="1"), num("seq", default="0"), txt("intent", default="''"),
        txt("intent_by", null=True), big("intent_at", null=True), txt("intent_why", null=True),
        txt("reason", null=True), txt("detail", null=True), uid("root_job_id", null=True), txt("user", null=True),
        txt("host", null=True), big("submitted_at"), big("started_at", null=True), big("finished_at", null=True),
        big("deadline_at", null=True), uid("resumed_from", null=True), blob("code_manifest_id", null=True),
        blob("code_content_id", null=True), txt("branch", null=True), txt("commit", null=True),
        blob("submission", null=True), pk("project_id", "id"), unique("project_id", "name"),
    )
    index("ix_runs_open", "runs", "project_id", "state", "id")
    index("ix_runs_repository", "runs", "project_id", "repository_id", "workflow", "state", "id")
    create(
        "retired_run_names",
        uid("project_id"), txt("name"), big("at"), pk("project_id", "name"),
    )
    create(
        "steps",
        uid("project_id"), uid("id"), uid("run_id"), num("position"), txt("name"), txt("workflow"), txt("provider"),
        txt("state"), num("version", default="1"), txt("rule", default="'success()'"), num("unmet", default="0"),
        num("open_jobs", default="0"), blob("plan", null=True), pk("project_id", "id"),
        unique("project_id", "run_id", "position"), child_of("runs", "run_id"),
    )
    create(
        "step_needs",
        uid("project_id"), uid("step_id"), uid("needs_id"), pk("project_id", "step_id", "needs_id"),
        child_of("steps", "step_id"),
    )
    index("ix_step_needs_needs", "step_needs", "project_id", "needs_id", "step_id")
    create(
        "gangs",
        uid("project_id"), uid("id"), uid("run_id"), uid("step_id"), txt("policy"), num("epoch", default="0"),
        num("members"), pk("project_id", "id"), child_of("runs", "run_id"),
    )
    create(
        "jobs",
        uid("project_id"), uid("id"), uid("run_id"), uid("step_id"), uid("gang_id", null=True), txt("name"),
        txt("workflow"), txt("provider"), txt("state"), num("version", default="1"), txt("intent", default="''"),
        txt("intent_by", null=True), big("intent_at", null=True), txt("intent_why", null=True),
        num("priority", default="0"), txt("need"), num("attempt", default="0"), num("counted", default="0"),
        num("rejections", default="0"), blob("excluded", null=True), uid("runner_id", null=True),
        txt("outcome", null=True), txt("reason", null=True), txt("detail", null=True), num("exit_code", null=True),
        num("signal", null=True), flag("artifacts_incomplete"), flag("log_incomplete"), big("submitted_at"),
        big("queued_at", null=True), big("not_before", null=True), big("deadline_at", null=True),
        big("started_at", null=True), big("finished_at", null=True), uid("reused_from", null=True), blob("spec"),
        blob("policy", null=True), pk("project_id", "id"), unique("project_id", "run_id", "name"),
        child_of("runs", "run_id"),
    )
    index("ix_jobs_deadline", "jobs", "project_id", "deadline_at", where="deadline_at IS NOT NULL")
    queue = ("project_id", "state", "priority DESC", "queued_at", "id")
    index("ix_jobs_queue", "jobs", *queue, where="state = 'queued'")
    index("ix_jobs_run_state", "jobs", "project_id", "run_id", "state")
    index("ix_jobs_step", "jobs", "project_id", "step_id")
    create(
        "attempts",
        uid("project_id"), uid("id"), uid("job_id"), uid("run_id"), num("number"), uid("runner_id"), txt("state"),
        txt("outcome", null=True), txt("detail", null=True), num("exit_code", null=True), num("signal", null=True),
        flag("oom"), big("assigned_at"), big("accepted_at", null=True), big("started_at", null=True),
        big("exited_at", null=True), big("ended_at", null=True), big("log_length", default="0"),
        flag("log_incomplete"), txt("late_event", null=True), num("late_exit_code", null=True),
        big("late_at", null=True), pk("project_id", "id"), unique("project_id", "job_id", "number"),
        child_of("jobs", "job_id"),
    )
    index("ix_attempts_live", "attempts", "project_id", "runner_id", "id", where="state <> 'ended'")
    create(
        "events",
        uid("project_id"), uid("run_id"), num("seq"), big("at"), txt("kind"), uid("object_id"), txt("event"),
        txt("before", null=True), txt("after", null=True), num("attempt", null=True), txt("actor", null=True),
        txt("detail", null=True), pk("project_id", "run_id", "seq"), child_of("runs", "run_id"),
    )
    create(
        "outbox",
        uid("project_id"), uid("id"), txt("topic"), blob("payload", null=True), big("created_at"),
        big("claimed_until", null=True), big("done_at", null=True), num("tries", default="0"), pk("project_id", "id"),
    )
    index("ix_outbox_open", "outbox", "project_id", "topic", "id", where="done_at IS NULL")
    create(
        "idempotency_keys",
        uid("project_id"), txt("key"), uid("object_id"), big("created_at"), pk("project_id", "key"),
    )
    create(
        "leases",
        uid("project_id"), txt("name"), txt("owner"), big("until"), pk("project_id", "name"),
    )


def runners() -> None:
    create(
        "runners",
        uid("project_id"), uid("id"), txt("name"), txt("state"), num("version", default="1"), uid("incarnation"),
        txt("dstack_version"), blob("capacity"), num("slots"), blob("pythons", null=True), flag("drain_asked"),
        uid("machine_id", null=True), big("registered_at"), big("heartbeat_at"), big("lease_until"),
        big("lost_at", null=True), pk("project_id", "id"),
    )
    index("ix_runners_state", "runners", "project_id", "state", "lease_until")
    create(
        "machines",
        uid("project_id"), uid("id"), txt("key"), txt("provisioner"), txt("state"), num("version", default="1"),
        blob("request", null=True), blob("handle", null=True), big("created_at"), big("deadline_at", null=True),
        big("ended_at", null=True), txt("detail", null=True), pk("project_id", "id"), unique("project_id", "key"),
    )
    create(
        "limits",
        uid("project_id"), txt("provisioner"), txt("offer"), num("maximum"), pk("project_id", "provisioner", "offer"),
    )


def artifacts() -> None:
    create(
        "log_streams",
        uid("project_id"), uid("id"), big("length", default="0"), flag("sealed"), blob("tail", null=True),
        pk("project_id", "id"),
    )
    create(
        "log_segments",
        uid("project_id"), uid("stream_id"), big("offset"), big("length"), big("first_line"), txt("blob_key"),
        blob("line_index", null=True), pk("project_id", "stream_id", "offset"),
    )
    create(
        "artifacts",
        uid("project_id"), uid("id"), uid("run_id"), uid("job_id"), num("attempt"), txt("path"), blob("manifest_id"),
        blob("content_id"), big("files"), big("size"), big("stored", default="0"), flag("live"), flag("partial"),
        big("taken_at"), pk("project_id", "id"), child_of("runs", "run_id"),
    )
    index("ix_artifacts_job", "artifacts", "project_id", "job_id", "path", "attempt", "id")
    index("ix_artifacts_run", "artifacts", "project_id", "run_id")
    create(
        "code_snapshots",
        uid("project_id"), blob("manifest_id"), blob("content_id"), big("files"), big("size"), big("used_at"),
        pk("project_id", "manifest_id"),
    )
    create(
        "packs",
        uid("project_id"), blob("pack_id"), big("size"), big("created_at"), pk("project_id", "pack_id"),
    )
    create(
        "chunks",
        uid("project_id"), blob("chunk_id"), blob("pack_id"), big("offset"), num("stored_length"), num("raw_length"),
        num("codec", default="0"), pk("project_id", "chunk_id"), sqlite_with_rowid=False,
    )
    create(
        "tags",
        uid("project_id"), uid("repository_id"), txt("workflow"), txt("name"), uid("run_id"), flag("partial"),
        txt("set_by", null=True), big("set_at"), pk("project_id", "repository_id", "workflow", "name"),
    )
    index("ix_tags_name", "tags", "project_id", "repository_id", "name")
    index("ix_tags_run", "tags", "project_id", "run_id")
    create(
        "tag_history",
        uid("project_id"), uid("id"), uid("repository_id"), txt("workflow"), txt("name"), uid("run_id", null=True),
        txt("set_by", null=True), big("set_at"), pk("project_id", "id"),
    )
    index("ix_tag_history_name", "tag_history", "project_id", "repository_id", "workflow", "name", "id")


# fmt: on
