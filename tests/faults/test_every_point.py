"""kill -9 at every fault point on the way submit → placed → running → saved → done (F1, F4): whatever dies where, one
run comes of it, it ends once, every line is there once, and its artifacts are whole."""

from __future__ import annotations

import sqlite3
import subprocess
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.faults.home import Home, assert_lines, each, hits
from tests.faults.points import COMMAND, RUNNER, SERVER, STARTING, turns
from tests.faults.stored import assert_whole_store

LINES = 300
WORKFLOWS = f"""\
workflows:
  - name: first
    provider: bash
    artifacts: [out]
    commands:
      - for i in $(seq {LINES}); do echo "first $i"; done
      - if [ -e {{slow}} ]; then sleep 0.3; fi
      - seq 20000 > out/numbers
      - echo ran >> {{ledger}}
  - name: second
    provider: bash
    depends-on: [first]
    artifacts: [copy]
    commands:
      - for i in $(seq {LINES}); do echo "second $i"; done
      - if [ -e {{slow}} ]; then sleep 0.3; fi
      - cp out/numbers copy/numbers
      - echo ran >> {{ledger}}
"""
OFTEN = {"DSTACK_SERVER_HEARTBEAT": "0.05"}
"""So that even so short a run has a heartbeat."""
EXPECTED = {name: [f"{name} {number}" for number in range(1, LINES + 1)] for name in ("first", "second")}


@pytest.fixture(autouse=True)
def workflows(home: Home) -> None:
    home.write(WORKFLOWS.format(ledger=home.root / "ledger", slow=home.root / "slow"))


@pytest.mark.parametrize("point", turns(STARTING))
def test_starting_server_killed(home: Home, point: str) -> None:
    """The command that started it says so, and has submitted nothing; the next one starts it again."""
    arm(home, point)
    done = home.types("run", "second", code=2)
    assert "the local server did not start: it ended by signal 9 before it was ready" in done.stderr
    done = home.types("run", "second")
    assert_whole(home, done.stdout)


@pytest.mark.parametrize("point", turns(SERVER))
def test_server_killed(home: Home, point: str) -> None:
    """The command that follows the run starts the next server and goes on where it was."""
    if "heartbeat" in point:
        home.environment |= OFTEN
    if "events" in point:
        (home.root / "slow").touch()  # the whole story of a short job comes in one write
    arm(home, point)
    done = home.types("run", "second")
    assert_whole(home, done.stdout)
    assert (home.root / "ledger").read_text() == "ran\nran\n"


@pytest.mark.parametrize("point", turns(RUNNER))
def test_runner_killed(home: Home, point: str) -> None:
    """The server starts the next runner, which takes up what the last one left."""
    arm(home, point, "DSTACK_RUNNER_FAULT")
    done = home.types("run", "second")
    assert_whole(home, done.stdout)
    assert (home.root / "ledger").read_text() == "ran\nran\n", "no command ran twice"
    home.wait(lambda: not home.attempts(), "the runner has cleared away")


@pytest.mark.parametrize("point", turns(COMMAND))
def test_command_killed(home: Home, point: str) -> None:
    """Killed while it ships the code, nothing was submitted; the next command does it all."""
    arm(home, point)
    home.types("run", "second", code=-9)
    assert home.runs() == []
    done = home.types("run", "second")
    assert_whole(home, done.stdout)


def test_every_point_is_reached(home: Home) -> None:
    """A run without faults passes every point of the tables: one that is never reached proves nothing."""
    log = home.root / "points"
    home.environment |= OFTEN | {"DSTACK_FAULT_LOG": str(log)}
    home.types("run", "second")
    wanted = set(STARTING | SERVER | RUNNER | COMMAND)
    reached = home.wait(lambda: hits(log) if hits(log) >= wanted else None, f"{wanted - hits(log)} reached")
    assert reached == wanted, "points on the way that no table lists"


def arm(home: Home, point: str, variable: str = "DSTACK_FAULT") -> None:
    """Have the first process that comes to `point` killed there."""
    home.environment |= {variable: point, "DSTACK_FAULT_ONCE": str(home.root / "fired")}


def assert_whole(home: Home, shown: str) -> Any:
    """One run, done once, with every line and every byte. `shown`: what the following command printed."""
    assert (home.root / "fired").exists(), "the fault point was never reached"
    runs = home.runs()
    assert [run["status"] for run in runs] == ["done"]
    name = runs[0]["name"]
    for job, data in home.log(name).items():
        assert_lines(data.decode(), EXPECTED[job])
    assert_lines("\n".join(each(shown)), EXPECTED["first"] + EXPECTED["second"])
    assert ended_once(home.folder / "server" / "dstack.db") == {"run": 1, "job": 2}
    assert assert_whole_store(home.folder) >= 2
    home.types("artifacts", "download", name, "-o", str(home.root / "fetched"))
    expected = subprocess.run(["seq", "20000"], capture_output=True, text=True, check=True).stdout
    for path in ("out/numbers", "copy/numbers"):
        assert (home.root / "fetched" / path).read_text() == expected
    return runs[0]


def ended_once(database: Path) -> dict[str, int]:
    """How many events brought a run, and its jobs, to `done`."""
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = connection.execute("SELECT kind FROM events WHERE after = 'done' AND kind IN ('run', 'job')").fetchall()
    return dict(Counter(kind for (kind,) in rows))
