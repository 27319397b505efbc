"""kill -9 of each party at any time, and of all at once (F2–F5): the job goes on, its true end is recorded, and no
line is lost or doubled."""

from __future__ import annotations

import signal
import sqlite3
import time
from contextlib import closing
from typing import Any

import pytest

from tests.faults.home import LINES, Gated, Home, assert_lines


def test_server_killed_mid_run(home: Home) -> None:
    """The one who follows it sees nothing but the output: the next server takes over."""
    job = Gated(home)
    following = home.start("run", "gated")
    pid = job.begun()
    before = home.server()
    home.kill(before)
    job.go()
    done = home.ends(following)
    assert_lines(done.stdout, LINES)
    assert home.server() not in (0, before)
    job.assert_ran_once()
    assert pid not in home.of_jobs()
    assert_recorded(home)


@pytest.mark.parametrize("artifacts", ["[]", "[out]"])
def test_server_away_at_the_end_of_a_job(home: Home, artifacts: str) -> None:
    """What the runner cannot tell and save now it tells and saves later, however long that takes."""
    job = Gated(home, ends="mkdir -p out; echo kept > out/file; exit 0", artifacts=artifacts)
    name = home.detached("gated")
    job.begun()
    home.kill(home.server())
    job.go()
    job.ended()
    home.wait(lambda: "wait for the server" in runner_log(home) or None, "the runner has tried in vain")
    home.wait(lambda: not home.of_jobs(), "the job is over")
    home.types("server", "start")
    run = home.wait_status(name, "done")
    assert [item["path"] for item in run["jobs"][0]["artifacts"]] == (["out"] if artifacts == "[out]" else [])
    job.assert_ran_once()
    assert_recorded(home)


def test_runner_killed_mid_job(home: Home) -> None:
    job = Gated(home)
    following = home.start("run", "gated")
    job.begun()
    before = home.runner()
    home.kill(before)
    home.wait(lambda: home.runner() or None, "the server starts another runner")
    assert home.of_jobs(), "the job goes on"
    job.go()
    assert_lines(home.ends(following).stdout, LINES)
    job.assert_ran_once()
    assert_recorded(home)


@pytest.mark.parametrize("code", [0, 7])
def test_runner_killed_before_its_job_ends(home: Home, code: int) -> None:
    """Nobody watches when the job ends: its exit code is read from where it was left (F4)."""
    job = Gated(home, ends=f"exit {code}")
    following = home.start("run", "gated")
    job.begun()
    server = home.server()
    home.kill(server, signal.SIGSTOP)  # so that it starts no other runner meanwhile
    home.kill(home.runner())
    job.go()
    job.ended()
    home.wait(lambda: not home.of_jobs(), "the job is over")
    home.kill(server, signal.SIGCONT)
    assert_lines(home.ends(following, code).stdout, LINES)
    job.assert_ran_once()
    assert_recorded(home, "done" if code == 0 else "failed", code)


def test_command_killed_while_following(home: Home) -> None:
    job = Gated(home)
    following = home.start("run", "gated")
    job.begun()
    following.kill()
    following.communicate()
    job.go()
    name = home.wait(home.runs, "the run is there")[0]["name"]
    home.wait_status(name, "done")
    assert_lines(home.types("logs", name).stdout, LINES)
    job.assert_ran_once()


@pytest.mark.parametrize("late", [False, True], ids=["back-before-its-end", "back-after-its-end"])
def test_all_killed_at_once(home: Home, late: bool) -> None:
    job = Gated(home, ends="exit 3")
    following = home.start("run", "gated")
    job.begun()
    for pid in (home.server(), home.runner(), following.pid):
        home.kill(pid)
    following.communicate()
    assert home.of_jobs(), "the job goes on"
    if late:
        job.go()
        job.ended()
        home.wait(lambda: not home.of_jobs(), "the job is over")
    name = home.types("runs", "--json").stdout.partition('"name": "')[2].partition('"')[0]
    job.go()
    home.wait_status(name, "failed")
    assert_lines(home.types("logs", "-f", name).stdout, LINES)
    job.assert_ran_once()
    assert_recorded(home, "failed", 3)


def test_what_was_finished_outlives_all_of_them(home: Home) -> None:
    """An artifact that is saved, and the line that it was: both are there once, and the job that needs it goes on."""
    job = Gated(home, ends="cmp data/numbers <(seq 20000)", artifacts="[out]")
    gated = (home.repo / ".dstack" / "workflows.yaml").read_text()
    home.write(
        gated.replace("    provider: bash\n", "    provider: bash\n    depends-on: [made]\n")
        + "  - {name: made, provider: bash, artifacts: [data], commands: [seq 20000 > data/numbers, echo made]}\n"
    )
    following = home.start("run", "gated")
    job.begun()
    for pid in (home.server(), home.runner(), following.pid):
        home.kill(pid)
    following.communicate()
    job.go()
    home.types("server", "start")
    [run] = home.runs()
    run = home.wait_status(run["name"], "done")
    assert [(item["name"], item["attempt"], item["exit_code"]) for item in run["jobs"]] == [
        ("made", 1, 0),
        ("gated", 1, 0),
    ]
    job.assert_ran_once()
    log = home.log(run["name"])
    assert log["made"] == b"made\n"
    assert_lines(log["gated"].decode(), LINES)
    [artifact] = [item for item in run["jobs"][0]["artifacts"] if not item["partial"]]
    assert (artifact["path"], artifact["files"]) == ("data", 1)
    home.types("artifacts", "download", run["name"], "made", "-o", str(home.root / "fetched"))
    assert (home.root / "fetched" / "data" / "numbers").read_text() == "".join(f"{n}\n" for n in range(1, 20001))


def test_server_is_away_for_days(home: Home) -> None:
    """Every lease and every deadline has passed when it is back (F2): it waits for what the runner has to say."""
    job = Gated(home)
    name = home.detached("gated")
    job.begun()
    runner = home.runner()
    home.kill(home.server())
    home.kill(runner, signal.SIGSTOP)  # nothing is heard of it before the server has looked around
    set_back(home, days=3)
    home.types("server", "start")
    looked = time.monotonic() + 1  # five ticks
    home.wait(lambda: time.monotonic() > looked or None, "the server has looked around")
    shown = home.job(name, "gated")
    assert (shown["status"], shown["status_text"]) == ("running", "Running...")
    home.kill(runner, signal.SIGCONT)
    job.go()
    home.wait_status(name, "done")
    assert home.runner() == runner
    job.assert_ran_once()
    assert_recorded(home)


def set_back(home: Home, days: int) -> None:
    """Make what is stored so many days older, as if the server had been away for as long."""
    with closing(sqlite3.connect(home.folder / "server" / "dstack.db")) as connection:
        for table in ("runs", "jobs", "attempts", "runners"):
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            times = [name for name in columns if name.endswith("_at") or name == "lease_until"]
            changes = ", ".join(f"{name} = {name} - {days * 86_400_000_000}" for name in times)
            assert connection.execute(f"UPDATE {table} SET {changes}").rowcount == 1, "one run, one job, one runner"
        connection.commit()


def test_silent_runner_comes_back(home: Home) -> None:
    """After a lease without a word its job is shown as unreachable, and nothing else happens to it."""
    home.environment["DSTACK_SERVER_LEASE"] = "1"
    job = Gated(home)
    name = home.detached("gated")
    job.begun()
    runner = home.runner()
    home.kill(runner, signal.SIGSTOP)
    shown = home.wait(lambda: unreachable(home, name), "the job is shown as unreachable")
    assert shown["status"] == "running"
    assert shown["unreachable_since"] > 0
    home.kill(runner, signal.SIGCONT)
    home.wait(lambda: unreachable(home, name) is None or None, "the job is reachable again")
    job.go()
    home.wait_status(name, "done")
    job.assert_ran_once()
    assert_recorded(home)


def unreachable(home: Home, name: str) -> Any:
    found = home.job(name, "gated")
    return found if found["status_text"] == "Unreachable" else None


def runner_log(home: Home) -> str:
    return (home.folder / "runner" / "runner.log").read_text()


def assert_recorded(home: Home, status: str = "done", code: int = 0) -> None:
    """One run with one attempt, its true end, and its whole log."""
    [run] = home.runs()
    assert (run["status"], run["exit_code"]) == (status, code)
    assert [job["attempt"] for job in run["jobs"]] == [1]
    assert_lines(home.log(run["name"])["gated"].decode(), LINES)
    home.wait(lambda: not home.attempts(), "the runner has cleared away")
    assert not home.of_jobs()
