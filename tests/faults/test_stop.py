"""Stop and abort in every state of a job (F22), and of jobs that do not want to end (F21)."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from tests.faults.home import Gated, Home

HELD = """\
workflows:
  - name: held
    provider: bash
    artifacts: [out]
    commands:
      - echo kept > out/file
      - echo $$ >> {gate}/begun
      - until [ -e {gate}/go ]; do sleep 0.02; done
  - name: after
    provider: bash
    depends-on: [held]
    commands: [echo after]
"""


@pytest.fixture
def gate(home: Home) -> Path:
    folder = home.root / "gate"
    folder.mkdir()
    home.write(HELD.format(gate=folder))
    return folder


def test_running_and_waiting(home: Home, gate: Path) -> None:
    """Both jobs of the run end; what the running one wrote is saved and marked partial. A second stop is answered."""
    following = home.start("run", "after")
    home.wait_file(gate / "begun")
    name = home.runs()[0]["name"]
    home.types("stop", "-y", name)
    done = home.ends(following, 122)
    assert "stopped by" in done.stderr
    run = home.run(name)
    assert {job["name"]: (job["status"], job["reason"]) for job in run["jobs"]} == {
        "held": ("stopped", "stopped"),
        "after": ("stopped", "stopped"),
    }
    [artifact] = run["jobs"][0]["artifacts"]
    assert (artifact["path"], artifact["files"], artifact["partial"]) == ("out", 1, True)
    assert not home.of_jobs()
    assert "already finished" in home.types("stop", "-y", name).stderr
    assert home.run(name) == run


def test_abort(home: Home, gate: Path) -> None:
    """Nothing more is saved, and no grace is given."""
    home.environment |= {"DSTACK_SERVER_STOP_GRACE": "3600", "DSTACK_RUNNER_QUIET_PERIOD": "3600"}
    name = home.detached("held")
    home.wait_file(gate / "begun")
    home.types("stop", "-y", "--abort", name)
    job = home.wait_status(name, "stopped")["jobs"][0]
    assert (job["reason"], job["artifacts"]) == ("aborted", [])
    assert not home.of_jobs()


def test_stop_then_abort(home: Home) -> None:
    """A job that ignores a stop for as long as it may is ended by the abort."""
    home.environment["DSTACK_SERVER_STOP_GRACE"] = "3600"
    gate = home.root / "gate"
    gate.mkdir()
    home.write(f"""\
workflows:
  - name: stubborn
    provider: bash
    commands: ["trap 'echo told >> {gate}/told' TERM; echo $$ > {gate}/begun; while true; do sleep 0.02 || true; done"]
""")
    name = home.detached("stubborn")
    home.wait_file(gate / "begun")
    home.types("stop", "-y", name)
    home.wait_file(gate / "told")
    assert home.run(name)["status"] == "running"
    home.types("stop", "-y", "--abort", name)
    assert home.wait_status(name, "stopped")["jobs"][0]["reason"] == "aborted"
    assert not home.of_jobs()


def test_queued_and_assigned(home: Home, gate: Path) -> None:
    """With one slot, the next jobs are handed out ahead, and those behind them wait: neither ever begins."""
    home.environment["DSTACK_RUNNER_SLOTS"] = "1"
    names = [home.detached("held") for _ in range(5)]
    home.wait_file(gate / "begun")
    states = home.wait(lambda: waiting_states(home, names[1:]), "some are handed out ahead and some are not")
    for name in names[1:]:
        home.types("stop", "-y", name)
    for name in states:
        job = home.wait_status(name, "stopped")["jobs"][0]
        assert job["reason"] == "stopped"
    (gate / "go").touch()
    home.wait_status(names[0], "done")
    assert len((gate / "begun").read_text().split()) == 1, "only the first one ever began"


def test_starting(home: Home) -> None:
    """While its environment is made: uv waits for an index that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        home.environment["UV_INDEX_URL"] = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        (home.repo / "requirements.txt").write_text("no-such-package==1\n")
        home.write("""\
workflows:
  - name: job
    provider: bash
    requirements: requirements.txt
    commands: [echo never]
""")
        name = home.detached("job")
        home.wait_job(name, "job", "starting")
        silent.settimeout(90)
        silent.accept()[0].close()
        home.types("stop", "-y", name)
        job = home.wait_status(name, "stopped")["jobs"][0]
    assert (job["reason"], job["started_at"]) == ("stopped", None)
    home.wait(lambda: not home.of_jobs(), "uv is gone")


def test_saving(home: Home) -> None:
    """The outcome was fixed at the exit: a stop changes neither it nor the save, which waits for the store."""
    job = Gated(home, artifacts="[out]", ends="head -c 1M /dev/urandom > out/file")
    following = home.start("run", "gated")
    job.begun()
    name = home.runs()[0]["name"]
    packs = home.folder / "server" / "store" / "packs"
    away = packs.rename(packs.with_name("away"))
    packs.write_text("in the way of every new pack")
    job.go()
    home.wait_job(name, "gated", "saving")
    home.types("stop", "-y", name)
    assert home.job(name, "gated")["status"] == "saving"
    packs.unlink()
    away.rename(packs)
    home.ends(following, 0)
    found = home.run(name)["jobs"][0]
    assert (found["status"], found["reason"], found["exit_code"]) == ("done", "exit-zero", 0)
    assert [(item["size"], item["partial"]) for item in found["artifacts"]] == [(1 << 20, False)]


@pytest.mark.parametrize(
    "nasty",
    {
        "children": "for i in $(seq 300); do sleep 1000 & done; echo $$ > {begun}; wait",
        "deaf": "trap '' TERM INT HUP; (trap '' TERM; sleep 1000) & echo $$ > {begun}; sleep 1000; sleep 1000",
        "sessions": "for i in 1 2; do setsid bash -c 'setsid sleep 1000 & sleep 1000' & done; echo $$ > {begun}; wait",
        "daemons": "for i in 1 2 3; do (setsid env -i sleep 1000 &) ; done; echo $$ > {begun}; sleep 1000",
    }.items(),
    ids=lambda item: item[0],
)
def test_processes_that_do_not_want_to_end(home: Home, nasty: tuple[str, str]) -> None:
    """All are gone a grace and five seconds after the stop; the next job is as the first."""
    home.environment["DSTACK_SERVER_STOP_GRACE"] = "1"
    begun = home.root / "begun"
    home.write(
        f"""\
workflows:
  - name: nasty
    provider: bash
    commands:
      - {nasty[1].format(begun=begun)!r}
  - name: next
    provider: bash
    commands: [echo clean]
""".replace("\\'", "''")
    )
    name = home.detached("nasty")
    home.wait_file(begun)
    members = in_group(home)
    assert len(members) > 1
    home.types("stop", "-y", name)
    run = home.wait_status(name, "stopped", within=60)
    seconds = (run["finished_at"] - asked_at(home, name)) / 1_000_000
    assert seconds < 1 + 5, "grace and five seconds"
    assert not [pid for pid in members if alive(pid)]
    assert home.types("run", "next").stdout == "clean\n"


def test_left_behind_at_a_normal_end(home: Home) -> None:
    """A daemon does not outlive its job, and does not hold up its end."""
    pids = home.root / "pids"
    home.write(f"""\
workflows:
  - name: job
    provider: bash
    commands:
      - (setsid sleep 1000 & echo $! >> {pids}); setsid bash -c 'echo $$ >> {pids}; exec sleep 1000' & sleep 0.2
      - echo done
""")
    assert home.types("run", "job").stdout == "done\n"
    found = [int(line) for line in pids.read_text().split()]
    assert len(found) == 2
    assert not [pid for pid in found if alive(pid)]


def waiting_states(home: Home, names: list[str]) -> dict[str, str] | None:
    found = {name: home.run(name)["jobs"][0]["status"] for name in names}
    return found if set(found.values()) == {"queued", "assigned"} else None


def in_group(home: Home) -> list[int]:
    """Pids of everything that descends from the job's shell or shares its control group."""
    [attempt] = home.attempts()
    members = set(home.of_jobs())
    for procs in Path("/sys/fs/cgroup").rglob(f"dstack-{attempt.name}/cgroup.procs"):
        members |= {int(line) for line in procs.read_text().split()}
    return sorted(members)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def asked_at(home: Home, name: str) -> int:
    """When the stop was stored, microseconds UTC."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(home.folder / "server" / "dstack.db")) as connection:
        return connection.execute("SELECT intent_at FROM runs WHERE name = ?", [name]).fetchone()[0]


def test_stop_reaches_a_runner_that_was_away(home: Home, gate: Path) -> None:
    """Asked while no runner is there, it is carried out by the one that takes over."""
    home.environment["DSTACK_SERVER_TICK"] = "3600"
    name = home.detached("held")
    home.wait_file(gate / "begun")
    home.kill(home.runner())
    home.types("stop", "-y", name)
    home.kill(home.server(), signal.SIGKILL)
    home.types("server", "start")
    home.wait_status(name, "stopped")
    assert not home.of_jobs()
