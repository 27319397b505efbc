"""How SQLite looks up the chunks of one pack: gc and verify ask for each of thousands of packs, beside other work."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.dialects import sqlite

from dstack.server.db.upgrade import ensure_schema
from dstack.server.services import ledger, marking


@pytest.mark.parametrize(
    "query",
    [ledger._ROWS_OF, marking._ROWS_OF],  # pyright: ignore[reportPrivateUsage]
    ids=["verify", "gc"],
)
def test_chunks_of_a_pack_are_found_without_a_look_at_other_packs(tmp_path: Path, query: Any) -> None:
    """2,000 packs of 100,000 chunks took 85 seconds in place of 5."""
    ensure_schema(f"sqlite:///{tmp_path / 'plan.db'}")
    statement = query.compile(dialect=sqlite.dialect())
    with closing(sqlite3.connect(tmp_path / "plan.db")) as connection:
        names = statement.positiontup or ()
        plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", [b""] * len(names)).fetchall()
    searches = [str(row[-1]) for row in plan if "chunks" in str(row[-1])]
    assert any("ix_chunks_pack (project_id=? AND pack_id=?)" in search for search in searches), searches
    assert all("(project_id=?)" not in search and "SCAN" not in search for search in searches), searches
