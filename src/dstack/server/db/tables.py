"""The tables, as SQLAlchemy Core metadata. Migrations make them; a test holds both against each other.

Every table carries `project_id`, first in every key and index; rows of the whole deployment use `SYSTEM`.
Ids are UUIDv7, times microseconds UTC, state columns are written by `services.apply` alone. What is read whole
and never searched (specs, policies, environments) is one msgpack blob.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from dstack.server.db.types import Id

SYSTEM = UUID(int=0)
"""The `project_id` of rows that belong to the deployment, not to a project."""

metadata = MetaData(naming_convention={"pk": "pk_%(table_name)s", "uq": "uq_%(table_name)s_%(column_0_N_name)s"})


def _id(name: str, nullable: bool = False) -> Column[UUID]:
    return Column(name, Id, nullable=nullable)


def _at(name: str, nullable: bool = True) -> Column[int]:
    return Column(name, BigInteger, nullable=nullable)


def _text(name: str, default: str | None = None, nullable: bool = False) -> Column[str]:
    return Column(name, Text, nullable=nullable, server_default=None if default is None else text(f"'{default}'"))


def _int(name: str, default: int | None = None, nullable: bool = False) -> Column[int]:
    return Column(name, Integer, nullable=nullable, server_default=None if default is None else text(str(default)))


def _big(name: str, default: int | None = None, nullable: bool = False) -> Column[int]:
    return Column(name, BigInteger, nullable=nullable, server_default=None if default is None else text(str(default)))


def _bool(name: str) -> Column[bool]:
    return Column(name, Boolean, nullable=False, server_default=text("false"))


def _blob(name: str, nullable: bool = True) -> Column[bytes]:
    return Column(name, LargeBinary, nullable=nullable)


def _intent() -> tuple[Column[str], Column[str], Column[int], Column[str]]:
    """Stop or abort asked, by whom, when and why: intent lives in columns, not in states."""
    return _text("intent", ""), _text("intent_by", nullable=True), _at("intent_at"), _text("intent_why", nullable=True)


# --- tenancy -------------------------------------------------------------------------------------------------

meta = Table(
    "meta", metadata, _id("project_id"), _text("key"), _text("value"), PrimaryKeyConstraint("project_id", "key")
)

projects = Table("projects", metadata, _id("project_id"), _text("name"), _at("created_at", nullable=False),
    PrimaryKeyConstraint("project_id"), UniqueConstraint("name"))  # fmt: skip

users = Table("users", metadata, _id("project_id"), _id("id"), _text("name"), _text("role", "member"),
    _at("created_at", nullable=False), PrimaryKeyConstraint("project_id", "id"),
    UniqueConstraint("project_id", "name"))  # fmt: skip

tokens = Table("tokens", metadata, _id("project_id"), _id("id"), _id("user_id", nullable=True), _text("kind"),
    _text("prefix"), _blob("digest", nullable=False), _at("created_at", nullable=False), _at("expires_at"),
    _at("used_at"), PrimaryKeyConstraint("project_id", "id"), UniqueConstraint("project_id", "digest"))  # fmt: skip

secrets = Table("secrets", metadata, _id("project_id"), _id("repository_id"), _text("name"),
    _blob("value", nullable=False), _text("updated_by", nullable=True), _at("updated_at", nullable=False),
    PrimaryKeyConstraint("project_id", "repository_id", "name"))  # fmt: skip

repositories = Table("repositories", metadata, _id("project_id"), _id("id"), _text("key"), _text("name"),
    _text("root", nullable=True), _at("created_at", nullable=False), PrimaryKeyConstraint("project_id", "id"),
    UniqueConstraint("project_id", "key"))  # fmt: skip

repository_aliases = Table("repository_aliases", metadata, _id("project_id"), _text("key"), _id("repository_id"),
    PrimaryKeyConstraint("project_id", "key"))  # fmt: skip

# --- runs ----------------------------------------------------------------------------------------------------

runs = Table(
    "runs", metadata,
    _id("project_id"), _id("id"), _id("repository_id"), _text("name"), _text("workflow"),
    _text("state"), _int("version", 1), _int("seq", 0), *_intent(),
    _text("reason", nullable=True), _text("detail", nullable=True), _id("root_job_id", nullable=True),
    _text("user", nullable=True), _text("host", nullable=True),
    _at("submitted_at", nullable=False), _at("started_at"), _at("finished_at"), _at("deadline_at"),
    _id("resumed_from", nullable=True),
    _blob("code_manifest_id"), _blob("code_content_id"), _text("branch", nullable=True), _text("commit", nullable=True),
    PrimaryKeyConstraint("project_id", "id"), UniqueConstraint("project_id", "name"),
    Index("ix_runs_repository", "project_id", "repository_id", "workflow", "state", "id"),
    Index("ix_runs_open", "project_id", "state", "id"),
)  # fmt: skip

submissions = Table("submissions", metadata, _id("project_id"), _id("run_id"), _blob("body", nullable=False),
    _blob("diff"), PrimaryKeyConstraint("project_id", "run_id"),
    ForeignKeyConstraint(["project_id", "run_id"], ["runs.project_id", "runs.id"], ondelete="CASCADE"))  # fmt: skip

run_values = Table("run_values", metadata, _id("project_id"), _id("run_id"), _text("name"),
    _blob("value", nullable=False), PrimaryKeyConstraint("project_id", "run_id", "name"),
    ForeignKeyConstraint(["project_id", "run_id"], ["runs.project_id", "runs.id"], ondelete="CASCADE"))  # fmt: skip

attempt_secrets = Table("attempt_secrets", metadata, _id("project_id"), _id("run_id"), _id("attempt_id"),
    _text("name"), _blob("value", nullable=False), PrimaryKeyConstraint("project_id", "run_id", "attempt_id", "name"),
    ForeignKeyConstraint(["project_id", "run_id"], ["runs.project_id", "runs.id"], ondelete="CASCADE"))  # fmt: skip

run_sources = Table("run_sources", metadata, _id("project_id"), _id("run_id"), _text("source"),
    PrimaryKeyConstraint("project_id", "run_id", "source"),
    Index("ix_run_sources_source", "project_id", "source", "run_id"),
    ForeignKeyConstraint(["project_id", "run_id"], ["runs.project_id", "runs.id"], ondelete="CASCADE"))  # fmt: skip
"""`source` is the name of a run whose artifacts `run_id` was given: it stays its name when that run is deleted."""

retired_run_names = Table("retired_run_names", metadata, _id("project_id"), _text("name"), _at("at", nullable=False),
    PrimaryKeyConstraint("project_id", "name"))  # fmt: skip

steps = Table(
    "steps", metadata,
    _id("project_id"), _id("id"), _id("run_id"), _int("position"), _text("name"), _text("workflow"),
    _text("provider"), _text("state"), _int("version", 1), _text("rule", "success()"),
    _int("unmet", 0), _int("open_jobs", 0), _blob("plan"), _bool("fail_fast"), _bool("continue_on_failure"),
    _bool("need_failed"), _bool("need_skipped"),
    PrimaryKeyConstraint("project_id", "id"), UniqueConstraint("project_id", "run_id", "position"),
    ForeignKeyConstraint(["project_id", "run_id"], ["runs.project_id", "runs.id"], ondelete="CASCADE"),
)  # fmt: skip

step_needs = Table("step_needs", metadata, _id("project_id"), _id("step_id"), _id("needs_id"),
    PrimaryKeyConstraint("project_id", "step_id", "needs_id"),
    Index("ix_step_needs_needs", "project_id", "needs_id", "step_id"),
    ForeignKeyConstraint(["project_id", "step_id"], ["steps.project_id", "steps.id"], ondelete="CASCADE"))  # fmt: skip

gangs = Table("gangs", metadata, _id("project_id"), _id("id"), _id("run_id"), _id("step_id"), _text("policy"),
    _int("epoch", 0), _int("members"), PrimaryKeyConstraint("project_id", "id"),
    ForeignKeyConstraint(["project_id", "run_id"], ["runs.project_id", "runs.id"], ondelete="CASCADE"))  # fmt: skip

jobs = Table(
    "jobs", metadata,
    _id("project_id"), _id("id"), _id("run_id"), _id("step_id"), _id("gang_id", nullable=True),
    _text("name"), _text("workflow"), _text("provider"),
    _text("state"), _int("version", 1), *_intent(), _int("priority", 0), _text("need"),
    _int("attempt", 0), _int("counted", 0), _int("rejections", 0), _int("unstarted", 0),
    _blob("excluded"), _id("runner_id", nullable=True),
    _text("outcome", nullable=True), _text("reason", nullable=True), _text("detail", nullable=True),
    _int("exit_code", nullable=True), _int("signal", nullable=True),
    _bool("artifacts_incomplete"), _bool("log_incomplete"),
    _at("submitted_at", nullable=False), _at("queued_at"), _at("not_before"), _at("deadline_at"),
    _at("started_at"), _at("finished_at"), _id("reused_from", nullable=True),
    _blob("spec", nullable=False), _blob("policy"),
    PrimaryKeyConstraint("project_id", "id"), UniqueConstraint("project_id", "run_id", "name"),
    Index("ix_jobs_run_state", "project_id", "run_id", "state"),
    Index("ix_jobs_step", "project_id", "step_id"),
    Index("ix_jobs_queue", "project_id", "state", text("priority DESC"), "queued_at", "id",  # as the placer reads it
          sqlite_where=text("state = 'queued'"), postgresql_where=text("state = 'queued'")),
    Index("ix_jobs_deadline", "project_id", "deadline_at",
          sqlite_where=text("deadline_at IS NOT NULL"), postgresql_where=text("deadline_at IS NOT NULL")),
    ForeignKeyConstraint(["project_id", "run_id"], ["runs.project_id", "runs.id"], ondelete="CASCADE"),
)  # fmt: skip

attempts = Table(
    "attempts", metadata,
    _id("project_id"), _id("id"), _id("job_id"), _id("run_id"), _int("number"), _id("runner_id"),
    _text("state"), _text("outcome", nullable=True), _text("detail", nullable=True),
    _int("exit_code", nullable=True), _int("signal", nullable=True), _bool("oom"),
    _at("assigned_at", nullable=False), _at("accepted_at"), _at("started_at"), _at("exited_at"), _at("ended_at"),
    _big("log_length", 0), _bool("log_incomplete"),
    _text("late_event", nullable=True), _int("late_exit_code", nullable=True), _at("late_at"),
    _blob("packages"), _big("metrics_length", 0), _text("save_problem", nullable=True),
    _blob("save_warnings"),
    PrimaryKeyConstraint("project_id", "id"), UniqueConstraint("project_id", "job_id", "number"),
    Index("ix_attempts_live", "project_id", "runner_id", "id",
          sqlite_where=text("state <> 'ended'"), postgresql_where=text("state <> 'ended'")),
    ForeignKeyConstraint(["project_id", "job_id"], ["jobs.project_id", "jobs.id"], ondelete="CASCADE"),
)  # fmt: skip

package_lists = Table("package_lists", metadata, _id("project_id"), _blob("digest", nullable=False),
    _blob("packages", nullable=False), PrimaryKeyConstraint("project_id", "digest"))  # fmt: skip

metrics = Table(
    "metrics", metadata,
    _id("project_id"), _id("attempt_id"), _text("name"), _big("seq"), _id("run_id"), _id("job_id"), _int("attempt"),
    _big("step", nullable=True), _at("at", nullable=False), Column("value", Float(53)),
    PrimaryKeyConstraint("project_id", "attempt_id", "name", "seq"),
    Index("ix_metrics_run", "project_id", "run_id", "job_id", "attempt", "name", "seq"),
    ForeignKeyConstraint(["project_id", "run_id"], ["runs.project_id", "runs.id"], ondelete="CASCADE"),
)  # fmt: skip

events = Table(
    "events", metadata,
    _id("project_id"), _id("run_id"), _int("seq"), _at("at", nullable=False),
    _text("kind"), _id("object_id"), _text("event"), _text("before", nullable=True), _text("after", nullable=True),
    _int("attempt", nullable=True), _text("actor", nullable=True), _text("detail", nullable=True),
    PrimaryKeyConstraint("project_id", "run_id", "seq"),
    ForeignKeyConstraint(["project_id", "run_id"], ["runs.project_id", "runs.id"], ondelete="CASCADE"),
)  # fmt: skip

outbox = Table("outbox", metadata, _id("project_id"), _id("id"), _text("topic"), _blob("payload"),
    _at("created_at", nullable=False), _at("claimed_until"), _at("done_at"), _int("tries", 0),
    PrimaryKeyConstraint("project_id", "id"),
    Index("ix_outbox_open", "project_id", "topic", "id",
          sqlite_where=text("done_at IS NULL"), postgresql_where=text("done_at IS NULL")))  # fmt: skip

idempotency_keys = Table("idempotency_keys", metadata, _id("project_id"), _text("key"), _id("object_id"),
    _at("created_at", nullable=False), PrimaryKeyConstraint("project_id", "key"))  # fmt: skip

leases = Table("leases", metadata, _id("project_id"), _text("name"), _text("owner"), _at("until", nullable=False),
    PrimaryKeyConstraint("project_id", "name"))  # fmt: skip

# --- runners and machines ------------------------------------------------------------------------------------

runners = Table(
    "runners", metadata,
    _id("project_id"), _id("id"), _text("name"), _text("state"), _int("version", 1), _id("incarnation"),
    _text("dstack_version"), _blob("capacity", nullable=False), _int("slots"), _blob("pythons"),
    _bool("drain_asked"), _id("machine_id", nullable=True),
    _at("registered_at", nullable=False), _at("heartbeat_at", nullable=False), _at("lease_until", nullable=False),
    _at("lost_at"),
    PrimaryKeyConstraint("project_id", "id"),
    Index("ix_runners_state", "project_id", "state", "lease_until"),
)  # fmt: skip

machines = Table(
    "machines", metadata,
    _id("project_id"), _id("id"), _text("key"), _text("provisioner"), _text("state"), _int("version", 1),
    _blob("request"), _blob("handle"), _at("created_at", nullable=False), _at("deadline_at"), _at("ended_at"),
    _text("detail", nullable=True),
    PrimaryKeyConstraint("project_id", "id"), UniqueConstraint("project_id", "key"),
)  # fmt: skip

limits = Table("limits", metadata, _id("project_id"), _text("provisioner"), _text("offer"), _int("maximum"),
    PrimaryKeyConstraint("project_id", "provisioner", "offer"))  # fmt: skip

# --- logs, artifacts, tags -----------------------------------------------------------------------------------

log_streams = Table("log_streams", metadata, _id("project_id"), _id("id"), _big("length", 0), _bool("sealed"),
    _blob("tail"), PrimaryKeyConstraint("project_id", "id"))  # fmt: skip

log_segments = Table("log_segments", metadata, _id("project_id"), _id("stream_id"), _big("offset"), _big("length"),
    _big("first_line"), _text("blob_key"), _blob("line_index"),
    PrimaryKeyConstraint("project_id", "stream_id", "offset"))  # fmt: skip

artifacts = Table(
    "artifacts", metadata,
    _id("project_id"), _id("id"), _id("run_id"), _id("job_id"), _int("attempt"), _text("path"),
    _blob("manifest_id", nullable=False), _blob("content_id", nullable=False),
    _big("files"), _big("size"), _big("stored", 0), _bool("live"), _bool("partial"), _at("taken_at", nullable=False),
    PrimaryKeyConstraint("project_id", "id"),
    Index("ix_artifacts_job", "project_id", "job_id", "path", "attempt", "id"),
    Index("ix_artifacts_run", "project_id", "run_id"),
    ForeignKeyConstraint(["project_id", "run_id"], ["runs.project_id", "runs.id"], ondelete="CASCADE"),
)  # fmt: skip

code_snapshots = Table("code_snapshots", metadata, _id("project_id"), _blob("manifest_id", nullable=False),
    _blob("content_id", nullable=False), _big("files"), _big("size"), _at("used_at", nullable=False),
    PrimaryKeyConstraint("project_id", "manifest_id"))  # fmt: skip

packs = Table("packs", metadata, _id("project_id"), _blob("pack_id", nullable=False), _big("size"),
    _at("created_at", nullable=False), _big("asked_at", 0), _at("condemned_at"),
    PrimaryKeyConstraint("project_id", "pack_id"))  # fmt: skip
"""`asked_at`: when a writer was last told that chunks of the pack are there, to ten minutes (the setting
`gc_asked_to`); until some time after that, nothing of it goes. `condemned_at`: no chunk is left in it, and its blob
goes soon."""

chunks = Table("chunks", metadata, _id("project_id"), _blob("chunk_id", nullable=False),
    _blob("pack_id", nullable=False), _big("offset"), _int("stored_length"), _int("raw_length"), _int("codec", 0),
    PrimaryKeyConstraint("project_id", "chunk_id"), Index("ix_chunks_pack", "project_id", "pack_id"),
    sqlite_with_rowid=False)  # fmt: skip

doubtful_objects = Table("doubtful_objects", metadata, _id("project_id"), _blob("object_id", nullable=False),
    _big("doubted_at", 0), PrimaryKeyConstraint("project_id", "object_id"))  # fmt: skip
"""Whoever saves is told that these are missing, so that they are written again: objects that are in `chunks` and name
what was damaged and taken out, and, for as long as somebody may rely on it, that itself."""

retention = Table("retention", metadata, _id("project_id"), _big("live"), _big("every"), _int("last"), _big("partials"),
    _big("runs", nullable=True), _text("set_by", nullable=True), _at("set_at", nullable=False),
    PrimaryKeyConstraint("project_id"))  # fmt: skip
"""How long snapshots and runs of a project are kept, in microseconds; without a row, as `domain.retention` says."""

tags = Table("tags", metadata, _id("project_id"), _id("repository_id"), _text("workflow"), _text("name"), _id("run_id"),
    _bool("partial"), _text("set_by", nullable=True), _at("set_at", nullable=False),
    PrimaryKeyConstraint("project_id", "repository_id", "workflow", "name"),
    Index("ix_tags_name", "project_id", "repository_id", "name"),
    Index("ix_tags_run", "project_id", "run_id"))  # fmt: skip

tag_history = Table("tag_history", metadata, _id("project_id"), _id("id"), _id("repository_id"), _text("workflow"),
    _text("name"), _id("run_id", nullable=True), _text("set_by", nullable=True), _at("set_at", nullable=False),
    PrimaryKeyConstraint("project_id", "id"),
    Index("ix_tag_history_name", "project_id", "repository_id", "workflow", "name", "id"))  # fmt: skip
