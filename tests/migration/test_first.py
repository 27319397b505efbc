"""Revision 0001 has what the design lists (DESIGN §8), on both databases: what is not there from the first revision on
would have to be added to databases that are in use."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import BigInteger, Inspector, LargeBinary, NullPool, Uuid, create_engine, inspect

from dstack.server.db import migrations
from dstack.server.db.engine import parse_url
from dstack.server.db.postgresql import driver_url

LISTED = {
    # table: columns that it must have
    "outbox": {"topic", "payload", "claimed_until", "done_at"},
    "idempotency_keys": {"key", "object_id"},
    "leases": {"name", "owner", "until"},
    "log_streams": {"length", "sealed", "tail"},
    "log_segments": {"stream_id", "offset", "length", "blob_key", "line_index"},
    "runs": {"name", "state", "version", "seq", "intent", "intent_by", "intent_at", "intent_why", "user", "host",
             "resumed_from"},
    "jobs": {"state", "version", "intent", "intent_by", "intent_at", "intent_why", "gang_id", "reused_from"},
    "attempts": {"number", "runner_id", "outcome", "exit_code", "late_event", "late_exit_code", "late_at"},
    "events": {"run_id", "seq", "actor", "before", "after", "attempt"},
    "retired_run_names": {"name"},
    "repository_aliases": {"key", "repository_id"},
    "gangs": {"policy", "epoch", "members"},
    "secrets": {"repository_id", "name", "value"},
    "tags": {"repository_id", "workflow", "name", "run_id"},
    "tag_history": {"repository_id", "workflow", "name", "run_id", "set_by", "set_at"},
    "chunks": {"chunk_id", "pack_id", "offset", "stored_length", "raw_length", "codec"},
    "machines": {"key", "provisioner", "state"},
    "limits": {"provisioner", "offer", "maximum"},
    "runners": {"state", "incarnation", "drain_asked", "lease_until"},
}  # fmt: skip


def at_first_revision(url: str) -> Inspector:
    parsed = parse_url(url)
    engine = create_engine(parsed if parsed.get_backend_name() == "sqlite" else driver_url(parsed), poolclass=NullPool)
    with engine.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        command.upgrade(config, "0001")
    return inspect(engine)


def test_the_first_schema_has_what_the_design_lists(empty_url: str) -> None:
    inspector = at_first_revision(empty_url)
    tables = set(inspector.get_table_names()) - {"alembic_version"}
    found = {table: {column["name"] for column in inspector.get_columns(table)} for table in tables}
    missing = {table: names - found.get(table, set()) for table, names in LISTED.items()}
    assert {table: names for table, names in missing.items() if names} == {}
    assert {column["name"] for column in inspector.get_columns("runs")} >= {"project_id", "name"}
    unique = {tuple(each["column_names"]) for each in inspector.get_unique_constraints("runs")}
    assert ("project_id", "name") in unique, "a run's name is taken by an insert, and tried again"


def test_ids_are_uuids_and_times_are_large_numbers(empty_url: str) -> None:
    inspector = at_first_revision(empty_url)
    sqlite = empty_url.startswith("sqlite")
    for table in set(inspector.get_table_names()) - {"alembic_version"}:
        for column in inspector.get_columns(table):
            name, kind = column["name"], column["type"]
            if name in {"id", "project_id", "run_id", "job_id", "step_id", "runner_id", "repository_id", "incarnation"}:
                assert isinstance(kind, LargeBinary if sqlite else Uuid), f"{table}.{name}: {kind}"
            if name.endswith("_at") or name in {"at", "until", "lease_until", "claimed_until", "not_before"}:
                assert isinstance(kind, BigInteger), f"{table}.{name}: {kind}"
