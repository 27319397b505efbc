"""A full disk pauses the saving of artifacts, says so where people look, and saving goes on by itself (F18, F19): on
small disks of their own, with real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.disks import Disks, fill
from tests.faults.home import Home

QUICK = {"DSTACK_RUNNER_SAVE_RETRY": "0.3", "DSTACK_RUNNER_QUIET_PERIOD": "0.2"}
WORKFLOWS = """\
workflows:
  - name: train
    provider: bash
    artifacts: [out]
    commands:
      - head -c 2M /dev/urandom > out/first
      - until [ -e {gate}/more ]; do sleep 0.05; done
      - head -c 3M /dev/urandom > out/second
      - until [ -e {gate}/end ]; do sleep 0.05; done
      - head -c 2M /dev/urandom > out/third
  - name: small
    provider: bash
    commands: [echo said]
"""


@pytest.fixture
def disks() -> Iterator[Disks]:
    """To be named before `home`: its processes are gone when the mounts are taken away."""
    made = Disks()
    yield made
    made.close()


@pytest.fixture
def gate(disks: Disks, home: Home) -> Path:
    """Where a job looks whether it may go on."""
    folder = home.root / "gate"
    folder.mkdir()
    home.environment |= QUICK
    home.write(WORKFLOWS.format(gate=folder))
    return folder


def test_the_stores_disk_fills_while_a_job_runs(disks: Disks, home: Home, gate: Path) -> None:
    """Snapshots pause with a word for everybody, the job goes on; once there is room, so do they. Nothing is lost."""
    store = disks.small(home.folder / "server" / "store", 32)
    following = home.start("run", "train")
    [run] = home.wait(home.runs, "the run is there")
    name = run["name"]
    home.wait(lambda: home.job(name, "train")["artifacts"] or None, "the first snapshot")
    filler = fill(store)
    (gate / "more").touch()
    why = home.wait(lambda: home.job(name, "train")["why_waiting"], "it is said why nothing is saved")
    assert why.startswith(f"takes no snapshots now: disk full on {store}")
    assert "Running... takes no snapshots now: disk full on " in home.types("runs", name).stdout
    assert f"train {why}" in home.types("explain", name).stdout
    assert home.of_jobs(), "the job goes on"
    before = newest(home, name)
    filler.unlink()
    home.wait(lambda: newest(home, name) != before or None, "the next snapshot comes by itself")
    home.wait(lambda: home.job(name, "train")["why_waiting"] is None or None, "nothing is in the way any more")
    (gate / "end").touch()
    done = home.ends(following)
    assert f"train: {why}" in done.stderr
    assert "train: saving goes on" in done.stderr
    assert_saved(home, name)


def test_the_stores_disk_is_full_when_a_job_ends(disks: Disks, home: Home, gate: Path) -> None:
    """The last save waits, says on which path, and ends by itself; a tag comes with the whole artifact, not before."""
    store = disks.small(home.folder / "server" / "store", 32)
    name = home.detached("train", "-t", "best")
    home.wait(lambda: home.job(name, "train")["artifacts"] or None, "the first snapshot")
    filler = fill(store)
    (gate / "more").touch()
    (gate / "end").touch()
    home.wait_job(name, "train", "saving")
    why = home.wait(
        lambda: (found := home.job(name, "train")["why_waiting"] or "").startswith("finishing") and found,
        "it is said what the end waits for",
    )
    assert str(why).startswith(f"finishing: disk full on {store}")
    assert "Saving... finishing: disk full on" in home.types("runs", name).stdout
    with home.api() as api:
        assert api.tags() == []
    filler.unlink()
    home.wait_status(name, "done")
    with home.api() as api:
        assert [tag.get("name") for tag in api.tags()] == ["best"]
    assert_saved(home, name)


def test_a_save_that_waits_too_long_is_given_up(disks: Disks, home: Home, gate: Path) -> None:
    """The deadline ends it with the reason; what was saved before is there, as what it is."""
    home.environment["DSTACK_SERVER_SAVE_DEADLINE"] = "4"
    store = disks.small(home.folder / "server" / "store", 32)
    name = home.detached("train")
    home.wait(lambda: home.job(name, "train")["artifacts"] or None, "the first snapshot")
    fill(store)
    (gate / "more").touch()
    (gate / "end").touch()
    run = home.wait_status(name, "failed")
    assert run["reason"] == "artifact-save"
    assert f"disk full on {store}" in run["reason_text"]
    [artifact] = run["jobs"][0]["artifacts"]
    assert artifact["partial"]


def test_the_runners_and_the_servers_disk_are_one_and_full(disks: Disks, home: Home, gate: Path) -> None:
    """Everything of a home on one disk, the database and the spool too: the end is told once there is room."""
    folder = disks.small(home.folder, 48)
    name = home.detached("train")
    home.wait(lambda: home.job(name, "train")["artifacts"] or None, "the first snapshot")
    filler = fill(folder)
    (gate / "more").touch()
    said = home.wait(lambda: told(home, name), "it is said why nothing is saved")
    assert "disk full on" in said
    filler.unlink()
    (gate / "end").touch()
    home.wait(lambda: home.run(name)["status"] in ("done", "failed") or None, "it ends")
    assert home.types("run", "small").stdout == "said\n"


def told(home: Home, name: str) -> str | None:
    return home.job(name, "train")["why_waiting"]


def newest(home: Home, name: str) -> str:
    return home.job(name, "train")["artifacts"][0]["manifest_id"]


def assert_saved(home: Home, name: str) -> None:
    [artifact] = home.run(name)["jobs"][0]["artifacts"]
    assert (artifact["files"], artifact["size"], artifact["partial"]) == (3, 7 << 20, False)
    home.types("artifacts", "download", name, "-o", str(home.root / "fetched"))
    sizes = {path.name: path.stat().st_size for path in (home.root / "fetched" / "out").iterdir()}
    assert sizes == {"first": 2 << 20, "second": 3 << 20, "third": 2 << 20}
