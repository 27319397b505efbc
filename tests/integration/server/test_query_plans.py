"""How SQLite looks up what there are thousands of, beside other work: chunks of packs, snapshots of a training."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.dialects import sqlite

from dstack.server.db.upgrade import ensure_schema
from dstack.server.services import artifacts, ledger, marking, taking_out


@pytest.mark.parametrize(
    "query",
    [ledger._ROWS_OF, marking._ROWS_OF],  # pyright: ignore[reportPrivateUsage]
    ids=["verify", "gc"],
)
def test_chunks_of_a_pack_are_found_without_a_look_at_other_packs(tmp_path: Path, query: Any) -> None:
    """2,000 packs of 100,000 chunks took 85 seconds in place of 5."""
    searches = searches_of(tmp_path, query)
    assert any("ix_chunks_pack (project_id=? AND pack_id=?)" in search for search in searches), searches
    assert all("(project_id=?)" not in search and "SCAN" not in search for search in searches), searches


def test_damaged_chunks_are_dropped_without_a_look_at_others(tmp_path: Path) -> None:
    """Nobody else can write meanwhile."""
    lying = [(b"%d" % number, b"pack") for number in range(500)]
    searches = searches_of(tmp_path, taking_out.delete_lying(UUID(int=1), lying))
    assert searches == ["SEARCH chunks USING PRIMARY KEY (project_id=? AND chunk_id=?)"]


def test_snapshots_of_a_folder_are_read_from_the_newest_back_as_far_as_they_are_wanted(tmp_path: Path) -> None:
    """A training saves thousands, and whoever begins from one looks for it while others wait to write."""
    searches = plan_of(tmp_path, artifacts._BACK)  # pyright: ignore[reportPrivateUsage]
    index = "ix_artifacts_job (project_id=? AND job_id=? AND path=? AND (attempt,id)<(?,?))"
    assert any(index in search for search in searches), searches
    assert all("SCAN" not in search and "TEMP B-TREE" not in search for search in searches), searches


def searches_of(folder: Path, query: Any) -> list[str]:
    """The lines of SQLite's plan that tell how it looks up chunks."""
    return [line for line in plan_of(folder, query) if "chunks" in line]


def plan_of(folder: Path, query: Any) -> list[str]:
    ensure_schema(f"sqlite:///{folder / 'plan.db'}")
    statement = query.compile(dialect=sqlite.dialect(), compile_kwargs={"render_postcompile": True})
    with closing(sqlite3.connect(folder / "plan.db")) as connection:
        names = statement.positiontup or ()
        plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", [b""] * len(names)).fetchall()
    return [str(row[-1]) for row in plan]
