"""kill -9 of the agent around large inputs: while the cache is filled, while a working copy is laid over it, and while
a job works in one. The job runs once, on the whole input; nothing half stays in the cache, nothing stays mounted."""

from __future__ import annotations

from pathlib import Path

import pytest

from dstack.runner.inputs import look
from dstack.runner.settings import Settings
from tests.faults.home import Home

POINTS = ("input-complete:before", "input-complete:after", "input-layers:before", "input-layers:after")
WORKFLOWS = """\
workflows:
  - name: prepare
    provider: bash
    artifacts: [data]
    commands:
      - seq 20000 > data/numbers
      - mkdir data/sub
      - seq 10 > data/sub/few
  - name: train
    provider: bash
    depends-on: [prepare]
    artifacts: [data]
    commands:
      - echo more >> data/sub/few
      - mv data/sub data/moved
      - echo begun >> {gate}/begun
      - until [ -e {gate}/go ]; do sleep 0.02; done
      - wc -l < data/numbers
      - echo late > data/late
"""


@pytest.fixture
def home(home: Home) -> Home:
    """Every input counts as large."""
    why = look(Settings(home=home.root / "try")).overlay
    if why:
        pytest.skip(why)
    home.environment |= {"DSTACK_RUNNER_INPUTS_FROM": "1", "DSTACK_RUNNER_INPUTS_SPARE": "0"}
    (home.root / "gate").mkdir()
    home.write(WORKFLOWS.format(gate=home.root / "gate"))
    return home


@pytest.mark.parametrize("point", POINTS)
def test_agent_killed_on_the_way_of_an_input(home: Home, point: str) -> None:
    home.environment |= {"DSTACK_RUNNER_FAULT": point, "DSTACK_FAULT_ONCE": str(home.root / "fired")}
    (home.root / "gate" / "go").touch()
    name = home.types("run", "-d", "train").stdout.strip()
    home.wait_status(name, "done")
    assert (home.root / "fired").exists(), "the fault point was never reached"
    assert_whole(home, name)


def test_agent_killed_while_a_job_works_on_an_overlay(home: Home) -> None:
    """The next one finds the job, saves what it sees, and takes the overlay away."""
    name = home.detached("train")
    home.wait_file(home.root / "gate" / "begun")
    assert mounts(home)
    before = home.runner()
    home.kill(before)
    home.wait(lambda: home.runner() not in (0, before) or None, "another agent runs")
    (home.root / "gate" / "go").touch()
    home.wait_status(name, "done")
    assert_whole(home, name)


def assert_whole(home: Home, name: str) -> None:
    assert (home.root / "gate" / "begun").read_text() == "begun\n", "it ran once"
    assert home.log(name)["train"].splitlines() == [b"20000"]
    home.types("artifacts", "download", f"{name}/train", "-o", str(home.root / "fetched"))
    fetched = home.root / "fetched" / "data"
    assert sorted(path.name for path in fetched.iterdir()) == ["late", "moved", "numbers"]
    assert (fetched / "moved" / "few").read_text().splitlines() == [*map(str, range(1, 11)), "more"]
    home.wait(lambda: not home.attempts() or None, "the runner has cleared away")
    assert mounts(home) == []
    cache = home.folder / "runner" / "cache" / "inputs"
    assert all((entry / "entry.json").exists() for entry in cache.iterdir())
    assert len([*cache.iterdir()]) == 2, "the code and the input"
    [few] = cache.glob("*/tree/data/sub/few")
    assert few.read_text().splitlines() == [*map(str, range(1, 11))]


def mounts(home: Home) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if str(home.root) in line]
