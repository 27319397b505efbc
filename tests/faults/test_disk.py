"""Full and read-only disks, under a job, under the server and under everything (F15, F18, F19): they are named, nothing
is lost, and all goes on once there is room."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.faults.disks import Disks, fill
from tests.faults.home import LINES, Gated, Home, assert_lines


@pytest.fixture
def disks() -> Iterator[Disks]:
    """To be named before `home`: its processes are gone when the mounts are taken away."""
    made = Disks()
    yield made
    made.close()


GREEDY = """\
workflows:
  - name: greedy
    provider: bash
    artifacts: [out]
    commands: [echo begun, head -c 100M /dev/zero > out/big]
  - name: modest
    provider: bash
    commands: [echo said]
"""


def test_job_fills_the_runners_disk(disks: Disks, home: Home) -> None:
    """The cause is named, what it wrote is kept, its folder goes away, and the next job has room."""
    folder = disks.small(home.folder / "runner", 16)
    home.write(GREEDY)
    done = home.types("run", "greedy", code=1)
    assert done.stdout.startswith("begun\n")
    assert f"exited with code 1: disk full on {folder}" in done.stderr
    [run] = home.runs()
    assert run["jobs"][0]["artifacts"][0]["partial"]
    assert home.types("run", "modest").stdout == "said\n"


def test_no_room_for_a_job_to_begin(disks: Disks, home: Home) -> None:
    """Set-up fails with the disk's name; once there is room, jobs run again."""
    folder = disks.small(home.folder / "runner", 16)
    home.write(GREEDY)
    home.types("run", "modest")
    home.wait(lambda: not home.attempts(), "the runner has cleared away")
    filler = fill(folder)
    done = home.types("run", "modest", code=119)
    assert f"disk full on {folder}" in done.stderr
    filler.unlink()
    assert home.types("run", "modest").stdout == "said\n"


def test_servers_disk_fills_while_a_job_runs(disks: Disks, home: Home) -> None:
    """The job goes on and ends; the runner keeps what it has to tell until it can be stored. Nothing is lost."""
    folder = disks.small(home.folder / "server", 32)
    job = Gated(home, artifacts="[out]", ends="head -c 3M /dev/urandom > out/file")
    following = home.start("run", "gated")
    job.begun()
    filler = fill(folder)
    job.go()
    job.ended()
    home.wait(lambda: not home.of_jobs(), "the job is over")
    home.wait(
        lambda: "No space left on device" in runner_log(home) or None, "the runner was told that there is no room"
    )
    filler.unlink()
    assert_lines(home.ends(following).stdout, LINES)
    [run] = home.runs()
    assert run["status"] == "done"
    [artifact] = run["jobs"][0]["artifacts"]
    assert (artifact["size"], artifact["partial"]) == (3 << 20, False)
    assert_lines(home.log(run["name"])["gated"].decode(), LINES)
    assert_sound(home)


def test_no_room_for_a_submission(disks: Disks, home: Home) -> None:
    """It is refused in words, nothing is stored, and the same command works once there is room."""
    folder = disks.small(home.folder, 48)
    home.write(GREEDY)
    home.types("run", "modest")
    filler = fill(folder)
    (home.repo / "more").write_bytes(bytes(range(256)) * 4096)
    done = home.types("run", "modest", code=2)
    assert done.stderr.startswith("error: ")
    assert "space" in done.stderr
    assert len(home.runs()) == 1
    filler.unlink()
    assert home.types("run", "modest").stdout == "said\n"
    assert [run["status"] for run in home.runs()] == ["done", "done"]
    assert_sound(home)


def test_no_room_for_a_home(disks: Disks, home: Home) -> None:
    """The server cannot even be started: the reason is the disk, not a crash."""
    folder = disks.small(home.folder, 1)
    filler = fill(folder)
    home.write(GREEDY)
    done = home.types("run", "modest", code=2)
    assert "No space left on device" in done.stderr or "no space left" in done.stderr
    assert str(folder) in done.stderr
    filler.unlink()


@pytest.mark.parametrize("command", [["run", "modest"], ["run", "-d", "modest"], ["runs"], ["server", "start"]])
def test_read_only_home(disks: Disks, home: Home, command: list[str]) -> None:
    folder = disks.read_only(home.folder)
    home.write(GREEDY)
    done = home.types(*command, code=2)
    assert done.stderr.startswith("error: ")
    assert str(folder) in done.stderr
    assert "Read-only file system" in done.stderr
    assert "DSTACK_HOME" in done.stderr


def test_home_that_became_read_only(disks: Disks, home: Home) -> None:
    """It was used before: the database is there and cannot be written. Afterwards it is as it was."""
    home.write(GREEDY)
    name = home.detached("modest")
    home.wait_status(name, "done")
    home.types("server", "stop")
    home.kill(home.runner())
    folder = disks.read_only(home.folder)
    done = home.types("run", "modest", code=2)
    assert str(folder) in done.stderr
    assert "Read-only file system" in done.stderr
    disks.writable(folder)
    assert home.types("run", "modest").stdout == "said\n"
    assert [run["status"] for run in home.runs()] == ["done", "done"]
    assert_sound(home)


def runner_log(home: Home) -> str:
    return (home.folder / "runner" / "runner.log").read_text()


def assert_sound(home: Home) -> None:
    with closing(sqlite3.connect(home.folder / "server" / "dstack.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
