"""Commands that start the server at the same moment, servers that end at the wrong one, and what a killed one left."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dstack import embedded
from dstack.client.api import Api, Unreachable
from dstack.client.wire import SocketTransport
from tests.faults.home import LINES, Gated, Home, assert_lines

QUICK = """\
workflows:
  - {name: quick, provider: bash, commands: [echo said]}
"""


@pytest.fixture(autouse=True)
def workflows(home: Home) -> None:
    home.write(QUICK)


def test_several_commands_start_the_server_at_once(home: Home) -> None:
    """One server comes of it, with one runner, and every run ends."""
    commands = [home.start("run", "quick") for _ in range(4)]
    assert [home.ends(command).stdout for command in commands] == ["said\n"] * 4
    runs = home.runs()
    assert [run["status"] for run in runs] == ["done"] * 4
    assert len({run["name"] for run in runs}) == 4
    log = (home.folder / "server" / "server.log").read_text()
    assert log.count("Started server process") == 1
    assert log.count("started the local runner") == 1
    assert home.programs() == {"dstack.server": 1, "dstack.runner": 1}


def test_commands_meet_a_server_that_ends(home: Home) -> None:
    """Each finds it gone, going or new; all of them get their run, and nobody sees an error."""
    home.environment["DSTACK_SERVER_IDLE_EXIT"] = "0.3"
    names: list[str] = []
    for number in range(4):
        names.append(home.detached("quick"))
        home.wait(lambda: statuses(home).get(names[-1]) == "done" or None, f"{names[-1]} is done")
        time.sleep(0.2 + 0.05 * number)  # around the moment at which the server ends
    assert statuses(home) == dict.fromkeys(names, "done")


def test_submission_while_an_idle_server_ends(home: Home) -> None:
    """Once accepted it is run, although the one who sent it has left and nobody else starts a server."""
    home.environment["DSTACK_SERVER_IDLE_EXIT"] = "0.5"
    accepted = ""
    for _ in range(10):
        home.types("server", "start")
        accepted = submit_at_the_end(home)
        if accepted:
            break
        home.wait(lambda: not home.server() or None, "the server has ended")
    assert accepted, "no submission met the ending server in ten tries"
    home.wait(lambda: statuses(home).get(accepted) == "done" or None, "the accepted run is done")
    home.wait(lambda: not home.server() or None, "then the server ends after all")


def test_server_does_not_end_while_something_runs(home: Home) -> None:
    home.environment["DSTACK_SERVER_IDLE_EXIT"] = "0.1"
    go = home.root / "go"
    home.write(
        f"workflows:\n  - {{name: slow, provider: bash, commands: ['until [ -e {go} ]; do sleep 0.02; done']}}\n"
    )
    name = home.detached("slow")
    home.wait(lambda: home.of_jobs() or None, "the job runs")
    server = home.server()
    time.sleep(1)  # ten times as long as it would wait
    assert home.server() == server
    go.touch()
    home.wait(lambda: statuses(home)[name] == "done" or None, "the run is done")
    home.wait(lambda: not home.server() or None, "the server has ended")


def test_runner_ends_after_its_server(home: Home) -> None:
    home.environment |= {"DSTACK_SERVER_IDLE_EXIT": "0.1", "DSTACK_RUNNER_ORPHAN_EXIT": "0.2"}
    home.types("run", "quick")
    home.wait(lambda: home.programs() == {} or None, "both have ended by themselves")
    home.types("run", "quick")


@pytest.mark.parametrize("left", ["dead-socket", "file", "lock-of-another"])
def test_what_a_killed_server_left(home: Home, left: str) -> None:
    """A socket that nobody listens on, some file in its place, a lock file that names a living process."""
    (home.folder / "server").mkdir(parents=True)
    path = Path(home.socket())
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if left == "file":
        path.write_text("not a socket")
    else:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
    if left == "lock-of-another":
        holder = {"pid": os.getpid(), "version": "0.0.1", "socket": str(path), "started_at": 1}
        (home.folder / "server" / "lock").write_text(json.dumps(holder))
    assert home.types("run", "quick").stdout == "said\n"


@pytest.mark.parametrize("removed", ["socket", "folder", "all"])
def test_the_socket_is_removed_while_a_job_runs(home: Home, removed: str) -> None:
    """By a log-out, which takes the whole folder of sockets away, or by who cleans up /tmp: the same server is found
    again, by people and by the runner, wherever it listens now."""
    job = Gated(home)
    name = home.detached("gated")
    job.begun()
    server, runner, path = home.server(), home.runner(), Path(home.socket())
    if removed == "socket":
        path.unlink()
    else:
        shutil.rmtree(path.parent if removed == "folder" else path.parents[1])
    assert [run["name"] for run in json.loads(home.types("runs", "--json").stdout)] == [name]
    home.kill(runner)  # the next one has no connection from before
    home.wait(lambda: home.runner() not in (0, runner) or None, "the server starts another runner")
    job.go()
    assert_lines(home.types("logs", "-f", name).stdout, LINES)
    job.assert_ran_once()
    assert home.server() == server
    listens = Path(json.loads((home.folder / "server" / "lock").read_text())["socket"])
    assert (listens == path) == (removed != "all")
    assert stat.S_IMODE(listens.stat().st_mode) == 0o600
    home.types("server", "stop")
    assert not listens.exists()


def test_a_second_server_names_the_first(home: Home) -> None:
    home.types("server", "start")
    done = home.types("server", "start", "--foreground", code=1)
    assert f"is in use: process {home.server()} (dstack" in done.stderr
    assert home.types("run", "quick").stdout == "said\n"


def submit_at_the_end(home: Home) -> str:
    """Submit over a connection that was made before, when the server says that it ends; "" when that was too late."""
    holder = embedded.read_holder(home.folder)
    assert holder is not None
    transport = SocketTransport(holder["socket"])
    transport.connect()
    log = home.folder / "server" / "server.log"
    before = log.read_text().count("nothing to do")
    home.wait(lambda: log.read_text().count("nothing to do") > before or None, "the server ends")
    submission: Any = {"workflow": "quick", "files": {".dstack/workflows.yaml": QUICK}, "repository": {"key": "here"}}
    api = Api(lambda: transport, patience=0)
    try:
        return api.submit(submission, os.urandom(8).hex()).get("name", "")
    except Unreachable:
        return ""
    finally:
        api.drop()


def statuses(home: Home) -> dict[str, str]:
    """Run → status, read from the file: a request would keep the server from being idle."""
    with closing(sqlite3.connect(f"file:{home.folder}/server/dstack.db?mode=ro", uri=True)) as connection:
        with contextlib.suppress(sqlite3.OperationalError):  # just being made, or just being closed
            return dict(connection.execute("SELECT name, state FROM runs").fetchall())
    return {}
