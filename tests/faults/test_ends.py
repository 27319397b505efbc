"""How jobs end, in words and as the command's exit code (F20)."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.faults.home import LINES, Gated, Home, assert_lines

HOG = """\
workflows:
  - name: hog
    provider: bash
    commands:
      - |
        if [ -d /sys/fs/cgroup/memory ]; then
          group=/sys/fs/cgroup/memory/{name}; mkdir $group; limit=memory.limit_in_bytes; echo $$ >$group/cgroup.procs
        else
          group=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup); limit=memory.max
        fi
        echo $((32 << 20)) >$group/$limit
      - python3 -c 'print(len(bytearray(1 << 28)))'
"""
"""As root a job may limit its own memory, in either layout of control groups."""

ENDS = {
    "zero": ("exit 0", 0, "done", "finished"),
    "one": ("exit 1", 1, "failed", "exited with code 1"),
    "two": ("exit 2", 2, "failed", "exited with code 2"),
    "status-137": ("exit 137", 137, "failed", "ended by signal 9 (SIGKILL) or exit code 137"),
    "status-143": ("exit 143", 143, "failed", "ended by signal 15 (SIGTERM) or exit code 143"),
    "killed": ("kill -9 $$", 137, "failed", "ended by signal 9 (SIGKILL) or exit code 137"),
    "terminated": ("kill -15 $$", 143, "failed", "ended by signal 15 (SIGTERM) or exit code 143"),
    "segmentation-fault": (
        "python3 -c 'import os; os.kill(os.getpid(), 11)'", 139, "failed", "ended by signal 11 (SIGSEGV)",
    ),
    "no-such-program": ("no-such-program", 127, "failed", "exited with code 127"),
    "not-a-program": ("./.dstack/workflows.yaml", 126, "failed", "exited with code 126"),
}  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
def test_end(home: Home, end: str) -> None:
    command, code, status, words = ENDS[end]
    home.write(f"workflows:\n  - name: job\n    provider: bash\n    commands:\n      - |\n        {command}\n")
    done = home.types("run", "job", code=code)
    [run] = home.runs()
    assert run["status"] == status
    assert words in run["reason_text"]
    assert run["exit_code"] == code
    if code:
        assert words in done.stderr
        assert words in home.types("explain", run["name"]).stdout


def test_bad_working_directory(home: Home) -> None:
    home.write("workflows:\n  - name: job\n    provider: bash\n    working_dir: nowhere\n    commands: [pwd]\n")
    done = home.types("run", "job", code=2)
    assert "there is no folder `nowhere`" in done.stderr
    (home.repo / "nowhere").write_text("a file")
    done = home.types("run", "job", code=126)
    assert "the working directory" in done.stderr
    assert "nowhere does not exist" in done.stderr


def test_time_limit(home: Home) -> None:
    home.write("workflows:\n  - {name: job, provider: bash, timeout: 1s, commands: [echo begun, sleep 1000]}\n")
    done = home.types("run", "job", code=124)
    assert done.stdout == "begun\n"
    assert "time limit" in done.stderr
    [run] = home.runs()
    assert (run["status"], run["reason"]) == ("failed", "timeout")
    assert not home.of_jobs()


def test_killed_wrapper_is_no_success(home: Home) -> None:
    """Whoever would have recorded the exit is gone: nobody knows it, and the command says so."""
    home.write("workflows:\n  - name: job\n    provider: bash\n    commands: ['kill -9 $PPID; exit 0']\n")
    done = home.types("run", "job", code=125)
    assert "gone without leaving an exit status" in done.stderr


def test_out_of_memory(home: Home) -> None:
    group = Path("/sys/fs/cgroup/memory", f"{home.root.name}-{os.getpid()}")
    home.write(HOG.format(name=group.name))
    try:
        done = home.types("run", "hog", code=137)
    finally:
        if group.exists():
            group.rmdir()
    assert "ran out of memory" in done.stderr
    assert home.runs()[0]["reason"] == "oom"


def test_cause_of_a_failed_graph(home: Home) -> None:
    """The exit code is that of the job that failed first, not of those skipped for it."""
    home.write("""\
workflows:
  - {name: bad, provider: bash, commands: [exit 9]}
  - {name: after, provider: bash, depends-on: [bad], commands: ['true']}
""")
    home.types("run", "after", code=9)
    [run] = home.runs()
    assert {job["name"]: job["status"] for job in run["jobs"]} == {"bad": "failed", "after": "skipped"}


def test_artifacts_that_could_not_be_saved(home: Home) -> None:
    """The job succeeded, what it made is not there: that is no success, and never tried again."""
    home.environment["DSTACK_SERVER_SAVE_DEADLINE"] = "1"
    job = Gated(home, artifacts="[out]", ends="seq 1000 > out/numbers")
    following = home.start("run", "gated")
    job.begun()
    packs = home.folder / "server" / "store" / "packs"
    packs.rename(packs.with_name("away"))
    packs.write_text("in the way of every new pack")
    job.go()
    done = home.ends(following, 121)
    assert "artifacts could not be saved" in done.stderr
    [run] = home.runs()
    assert (run["status"], run["reason"], run["exit_code"]) == ("failed", "artifact-save", 121)
    job.assert_ran_once()
    assert_lines(home.log(run["name"])["gated"].decode(), LINES)


def test_runner_lost_with_its_job(home: Home) -> None:
    """The next runner on the machine knows nothing of the job: it is lost, and not run again."""
    job = Gated(home)
    following = home.start("run", "gated")
    job.begun()
    [run] = home.runs()
    home.wait(lambda: home.log(run["name"])["gated"].count(b"\n") == 100 or None, "what it said has arrived")
    server = home.server()
    home.kill(server, signal.SIGSTOP)  # so that it starts no other runner meanwhile
    home.kill(home.runner())
    home.wait(lambda: not [end(pid) for pid in home.of_jobs()], "nothing of the job is left")
    [attempt] = home.attempts()
    shutil.rmtree(attempt)
    home.kill(server, signal.SIGCONT)
    done = home.ends(following, 120)
    assert_lines(done.stdout, LINES[:100])
    assert "runner" in done.stderr
    [run] = home.runs()
    assert (run["status"], run["reason"], run["jobs"][0]["attempt"]) == ("failed", "runner-lost", 1)


def end(pid: int) -> None:
    """Kill a process that may be ending by itself."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has
