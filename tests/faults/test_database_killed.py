"""kill -9 around commits: each transaction is there as a whole or not at all, and what was told done is there (F1)."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys

import pytest
from sqlalchemy import select

from dstack.server.db.engine import Database
from dstack.server.db.tables import meta
from tests.support.ports import FakeClock

# Each transaction stores a pair of rows and is then reported on a line.
_WRITER = """
import sys
from dstack.domain.ports import SystemClock
from dstack.server.db.engine import Database, declare_write
from dstack.server.db.tables import SYSTEM, meta
PAIR = declare_write("test-pair")
database = Database.open(sys.argv[1], clock=SystemClock(), on_commit=print)
for number in range(int(sys.argv[2])):
    rows = [{"project_id": SYSTEM, "key": f"{number:05}-{half}", "value": "x" * 500} for half in "ab"]
    database.write(PAIR, lambda tx: tx.execute(meta.insert(), rows))
    print(number, flush=True)
"""


def writer(url: str, transactions: int, fault: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, url, str(transactions)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"DSTACK_FAULT": fault},
    )


def stored(url: str) -> list[int]:
    """The numbers of the pairs in the database; fails when a pair is not whole, or the file is not."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()
    database = Database.open(url, clock=FakeClock(), on_commit=lambda _: None)
    query = select(meta.c.key).where(meta.c.key != "dstack_version").order_by(meta.c.key)
    keys = list(database.read(lambda tx: tx.execute(query).scalars().all()))
    database.close()
    numbers = [int(key.removesuffix("-a")) for key in keys[::2]]
    assert keys == [f"{number:05}-{half}" for number in numbers for half in "ab"]
    return numbers


@pytest.mark.parametrize(("point", "expected"), [("before", [0, 1]), ("after", [0, 1, 2])])
def test_killed_around_a_commit(database_url: str, point: str, expected: list[int]) -> None:
    child = writer(database_url, 5, fault=f"commit:test-pair:{point}:3")
    told = child.communicate()[0].split()
    assert child.returncode == -signal.SIGKILL
    assert told == ["0", "1"]
    assert stored(database_url) == expected


@pytest.mark.parametrize("after", [1, 60, 400])
def test_killed_at_any_time(database_url: str, after: int) -> None:
    with writer(database_url, 100_000) as child:
        assert child.stdout is not None
        told = [int(child.stdout.readline()) for _ in range(after)]
        child.kill()
        told += [int(line) for line in child.stdout.read().split()]
    found = stored(database_url)
    assert found[: len(told)] == told, "what was told done is there"
    assert len(found) - len(told) in (0, 1), "besides, one at most was committed and not told yet"
