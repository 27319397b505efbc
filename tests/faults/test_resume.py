"""A training that is killed, alone or with its runner, goes on from its last snapshot: when asked to, and by itself."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path
from typing import Any

from tests.faults.home import Home

TRAIN = """
workflows:
  - name: prepare
    provider: bash
    commands: ["echo data > data/x"]
    artifacts: [data]
  - name: train
    provider: bash
    commands:
      - n=$(cat state/n || echo 0)
      - echo "process $$ begins after $n, resumed=$DSTACK_RESUMED from=$DSTACK_RESUMED_FROM, with $(cat data/x)"
      - |
        while :; do
          n=$((n + 1)); echo "$n" > state/new; mv state/new state/n; echo "epoch $n"
          [ -e "ROOT/enough" ] && break
          sleep 0.1
        done
    artifacts: [state]
    depends-on: [prepare]
    RETRY
"""
BEGIN = re.compile(r"process (\d+) begins after (\d+), resumed=(1?) from=(\S*), with data")


def training(home: Home, retry: str = "") -> str:
    """A training that runs and of which a live snapshot was taken; its run's name."""
    home.environment["DSTACK_RUNNER_MAX_INTERVAL"] = "0.3"
    home.write(TRAIN.replace("ROOT", str(home.root)).replace("RETRY", retry))
    name = home.detached("train")
    home.wait(lambda: live(home, name), "a snapshot of it was taken")
    return name


def live(home: Home, name: str) -> list[Any]:
    """The snapshots of the first attempt that hold an epoch, newest first."""
    with home.api() as api:
        found: list[Any] = list(api.artifact_history(run=name, job="train"))
    return [item for item in found if item["files"] and item["attempt"] == 1]


def begins(home: Home, name: str) -> list[tuple[int, int, str, str]]:
    """(pid, epoch, DSTACK_RESUMED, DSTACK_RESUMED_FROM) of each attempt."""
    return [(int(pid), int(at), *rest) for pid, at, *rest in BEGIN.findall(home.types("logs", name, "train").stdout)]


def test_killed_and_resumed(home: Home) -> None:
    name = training(home)
    [(pid, _, _, _)] = begins(home, name)
    home.kill(pid)
    home.wait_status(name, "failed")
    reached = int(home.types("artifacts", "cat", f"{name}:state/n").stdout)
    assert reached in (printed := home.types("logs", name).stdout.count("epoch "), printed + 1), "saved before printed"
    (home.root / "enough").touch()

    done = home.types("resume", name)

    assert "prepare: reused from " + name in done.stderr
    assert f"dstack: state begins with the last snapshot of run {name} (1 file)\n" in done.stdout
    assert f"epoch {reached + 1}\n" in done.stdout
    run = home.runs()[0]
    assert (run["status"], run["resumed_from"]) == ("done", name)
    assert [at for _, at, *_ in begins(home, run["name"])] == [reached]
    assert [rest for _, _, *rest in begins(home, run["name"])] == [["1", name]]


def lose_with_its_runner(home: Home) -> None:
    """Everything of the job and of its runner is gone but for what the server has."""
    server = home.server()
    home.kill(server, signal.SIGSTOP)  # so that it starts no other runner meanwhile
    home.kill(home.runner())
    home.wait(lambda: not [end(home, pid) for pid in home.of_jobs()], "nothing of the job is left")
    for attempt in home.attempts():
        shutil.rmtree(attempt)
    (home.root / "enough").touch()
    home.kill(server, signal.SIGCONT)


def end(home: Home, pid: int) -> None:
    try:
        home.kill(pid)
    except (AssertionError, ProcessLookupError):
        pass  # it has ended by itself


def test_lost_with_its_runner_and_resumed(home: Home) -> None:
    name = training(home)
    lose_with_its_runner(home)
    assert home.wait_status(name, "failed")["reason"] == "runner-lost"
    reached = last_saved(home, name)
    assert home.types("resume", name).stdout.endswith(f"epoch {reached + 1}\n")


def test_lost_with_its_runner_and_tried_again(home: Home) -> None:
    name = training(home, "retry: {max: 1, on: [runner-lost], backoff: 0.1}")
    lose_with_its_runner(home)
    run = home.wait_status(name, "done")
    assert home.job(name, "train")["attempt"] == 2, run
    (_, first, *plain), (_, second, *resumed) = begins(home, name)
    assert (first, plain) == (0, ["", ""])
    assert (second, resumed) == (last_saved(home, name), ["1", name])


def last_saved(home: Home, name: str) -> int:
    """The epoch of the last snapshot of the first attempt."""
    newest = live(home, name)[0]
    assert newest["live"], "nothing was saved after it was lost"
    target = home.root / "last"
    home.types("artifacts", "cp", f"{name}/train:state/n", str(target), "--at", newest["manifest_id"])
    return int(Path(target).read_text())


def test_killed_and_set_back(home: Home) -> None:
    """A training that diverged: it goes on from an epoch that it had long passed."""
    name = training(home)
    home.wait(lambda: len(live(home, name)) > 1, "a second snapshot of it was taken")
    [(pid, _, _, _)] = begins(home, name)
    home.kill(pid)
    home.wait_status(name, "failed")
    first = live(home, name)[-1]["manifest_id"]
    (home.root / "enough").touch()

    planned = home.types("resume", name, "--at", first[:12], "--plan").stdout
    done = home.types("resume", name, "--at", first[:12])

    assert f": snapshot {first[:12]}, not its last\n" in planned
    assert f"dstack: state begins with a snapshot of run {name}, taken at " in done.stdout
    assert " UTC (1 file), as was asked for\n" in done.stdout
    run = home.runs()[0]["name"]
    held = home.types("artifacts", "cat", f"{name}@{first[:12]}/train:state/n").stdout.strip()
    assert [str(at) for _, at, *_ in begins(home, run)] == [held]
    assert f"state of {name}/train as of snapshot {first[:12]} " in home.types("lineage", run).stdout


EMPTIED = """
workflows:
  - name: train
    provider: bash
    commands:
      - echo "begins after $(cat state/n || echo nothing)"
      - "[ -e ROOT/enough ] && exit 0"
      - echo 7 > state/n
      - until [ -e "ROOT/clear" ]; do sleep 0.1; done
      - rm state/n; echo cleared
      - kill -9 $$
    artifacts: [state]
    RETRY
"""


def emptied(home: Home, retry: str) -> str:
    """A training that saved something, cleared its folder and was killed."""
    home.environment["DSTACK_RUNNER_MAX_INTERVAL"] = "0.3"
    home.write(EMPTIED.replace("ROOT", str(home.root)).replace("RETRY", retry))
    name = home.detached("train")
    home.wait(lambda: live(home, name), "a snapshot of it was taken")
    return name


def test_cleared_its_folder_and_was_killed(home: Home) -> None:
    name = emptied(home, "")
    (home.root / "clear").touch()
    home.wait_status(name, "failed")
    with home.api() as api:
        assert api.artifact_history(run=name)[0].get("files") == 0, "that is what became of it"
    (home.root / "enough").touch()
    done = home.types("resume", name)
    assert f"warning: the snapshot of `state` that train of {name} would begin with holds no file: " in done.stderr
    assert f"`dstack resume {name} --fresh` begins with nothing" in done.stderr
    assert "begins after 7\n" in done.stdout


def test_cleared_its_folder_and_is_tried_again(home: Home) -> None:
    name = emptied(home, "retry: {max: 1, on: [signal], backoff: 5}")
    (home.root / "clear").touch()
    home.wait(lambda: "cleared\n" in home.types("logs", name).stdout, "it was cleared")
    (home.root / "enough").touch()
    home.wait_status(name, "done")
    printed = home.types("logs", name).stdout
    assert "dstack: state begins with a snapshot of attempt 1, taken at " in printed
    assert "begins after 7\n" in printed
