"""Overlays over inputs: what outlives an agent, a boot and a power cut, and what goes with the attempt."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dstack.runner import overlay
from dstack.runner.folders import clear_work, set_aside
from tests.support.inputs import Bench
from tests.support.stores import RecordingStore
from tests.support.trees import described


def test_an_overlay_goes_with_its_attempt_and_leaves_the_cache_alone(bench: Bench, data: Path) -> None:
    """Also while something still works in it."""
    assignment, work = bench.begin(("data", bench.save(data)))
    [entry] = bench.entries()
    with subprocess.Popen(["sleep", "60"], cwd=work / "data") as straggler:
        bench.end(assignment)
        straggler.kill()
    assert not bench.folder(assignment).exists()
    assert described(entry / "tree" / "data") == described(data)


def test_a_half_begun_attempt_is_begun_again(bench: Bench, data: Path) -> None:
    """What an agent does that finds an attempt whose process was never started."""
    assignment, _ = bench.begin(("data", bench.save(data)))
    folder = bench.folder(assignment)
    clear_work(folder)
    assert list(folder.iterdir()) == []
    again = Bench(bench.settings.home, bench.store, "overlay")
    folder.rmdir()
    work = asyncio.run(again.lay_out(assignment))
    assert described(work / "data") == described(data)


def test_after_a_boot_the_overlay_is_mounted_again(bench: Bench, data: Path) -> None:
    """With what the job wrote; also where the entry was not on the disk and is made anew."""
    assignment, work = bench.begin(("data", bench.save(data)))
    (work / "data" / "mine").write_text("written by the job")
    (work / "data" / "big").unlink()
    expected = described(work / "data")
    for lost in (False, True):
        overlay.unmount(bench.folder(assignment))
        assert list(work.iterdir()) == []
        if lost:
            shutil.rmtree(bench.entries()[0])
        again = Bench(bench.settings.home, bench.store, "overlay")
        again.inputs.hold(assignment.attempt_id, bench.folder(assignment))
        assert asyncio.run(again.inputs.lay_over_again(assignment.attempt_id, bench.folder(assignment), 0)) == ""
        assert described(work / "data") == expected


def test_a_living_overlay_is_left_as_it_is(bench: Bench, data: Path) -> None:
    assignment, work = bench.begin(("data", bench.save(data)))
    device = work.stat().st_dev
    again = Bench(bench.settings.home, RecordingStore(), "overlay")
    assert asyncio.run(again.inputs.lay_over_again(assignment.attempt_id, bench.folder(assignment), 0)) == ""
    assert work.stat().st_dev == device


def test_the_overlay_of_a_job_in_another_mount_namespace_is_brought_here(bench: Bench, data: Path) -> None:
    """The agent before was given one by systemd; its job went on in it. Both then see the same, at once."""
    assignment, work = bench.begin(("data", bench.save(data)))
    folder = bench.folder(assignment)
    held = subprocess.Popen(["unshare", "--mount", "sh", "-c", "echo; read go; rm data/big; echo; read end"], cwd=work,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    with held:
        assert held.stdout is not None
        assert held.stdin is not None
        held.stdout.readline()
        overlay.unmount(folder)
        again = Bench(bench.settings.home, bench.store, "overlay")
        assert asyncio.run(again.inputs.lay_over_again(assignment.attempt_id, folder, held.pid)) == ""
        assert described(work / "data") == described(data)
        (work / "new").write_text("written here")
        held.stdin.write(b"\n")
        held.stdin.flush()
        held.stdout.readline()
        assert not (work / "data" / "big").exists()
        assert Path(f"/proc/{held.pid}/root{work}/new").read_text() == "written here"
        held.stdin.write(b"\n")


def test_where_an_input_is_lost_what_the_job_wrote_is_left(bench: Bench, data: Path) -> None:
    assignment, work = bench.begin(("data", bench.save(data)))
    (work / "out").mkdir()
    (work / "out" / "mine").write_text("written by the job")
    overlay.unmount(bench.folder(assignment))
    shutil.rmtree(bench.entries()[0])
    again = Bench(bench.settings.home, RecordingStore(), "overlay")
    said = asyncio.run(again.inputs.lay_over_again(assignment.attempt_id, bench.folder(assignment), 0))
    assert "only what it wrote is left" in said
    assert (work / "out" / "mine").read_text() == "written by the job"


@pytest.mark.parametrize("point", ["input-uncovered:before", "input-uncovered:after"])
@pytest.mark.parametrize("then", ["resumed", "set aside"])
def test_an_agent_killed_while_it_uncovers_loses_nothing(bench: Bench, data: Path, point: str, then: str) -> None:
    """The next one does the rest, or lays the working copy over its inputs again."""
    assignment, work = bench.begin(("data", bench.save(data)))
    folder = bench.folder(assignment)
    (work / "mine").write_text("written by the job")
    program = (
        "import sys; from pathlib import Path; from dstack.runner.overlay import uncover; uncover(Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, folder], env={**os.environ, "DSTACK_FAULT": point}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert (folder / "layers").exists()
    again = Bench(bench.settings.home, bench.store, "overlay")
    if then == "set aside":
        work = bench.settings.folder / "orphaned" / assignment.attempt_id.hex / "work"
        set_aside(folder, work.parent)
        assert [path.name for path in work.iterdir()] == ["mine"]
    else:
        said = asyncio.run(again.inputs.lay_over_again(assignment.attempt_id, folder, 0))
        uncovered = point.endswith("after")
        assert ("only what it wrote is left" in said) == uncovered
        assert sorted(path.name for path in work.iterdir()) == (["mine"] if uncovered else ["data", "mine"])
        assert (folder / "layers").exists() != uncovered
    assert (work / "mine").read_text() == "written by the job"


@pytest.mark.parametrize("left", [b"", None])
def test_a_power_cut_may_take_what_says_which_inputs_lay_below(bench: Bench, data: Path, left: bytes | None) -> None:
    assignment, work = bench.begin(("data", bench.save(data)))
    folder = bench.folder(assignment)
    (work / "mine").write_text("written by the job")
    overlay.unmount(folder)
    if left is None:
        (folder / "layers" / "below").unlink()
    else:
        (folder / "layers" / "below").write_bytes(left)
    again = Bench(bench.settings.home, bench.store, "overlay")
    again.inputs.hold(assignment.attempt_id, folder)
    said = asyncio.run(again.inputs.lay_over_again(assignment.attempt_id, folder, 0))
    assert said.startswith("its inputs are gone")
    assert [path.name for path in work.iterdir()] == ["mine"]


def test_what_lies_below_is_on_the_disk_before_it_has_its_name(
    bench: Bench, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, int]] = []
    monkeypatch.setattr(
        os, "fsync", lambda fd: synced.append((os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd).st_size))
    )
    assignment, _ = bench.begin(("data", bench.save(data)))
    below = bench.folder(assignment) / "layers" / "below"
    assert (f"{below}.part", below.stat().st_size) in synced


def test_no_second_overlay_is_mounted_while_the_job_works_in_the_first(bench: Bench, data: Path) -> None:
    """Its namespace cannot be entered: nothing is mounted until its process has ended, and then all is there."""
    assignment, work = bench.begin(("data", bench.save(data)))
    folder = bench.folder(assignment)
    (work / "mine").write_text("written by the job")
    expected = described(work)
    overlay.unmount(folder)
    again = Bench(bench.settings.home, bench.store, "overlay")
    with subprocess.Popen(["sleep", "60"]) as job:  # sees no working copy either: as hard to reach as a kernel forbids
        with pytest.raises(
            OSError, match=f"the working copy of process {job.pid} cannot be reached: nothing is mounted"
        ):
            asyncio.run(again.inputs.lay_over_again(assignment.attempt_id, folder, job.pid))
        job.kill()
    assert not overlay.is_mounted(folder)
    assert overlay.has_upper(folder)
    assert asyncio.run(again.inputs.lay_over_again(assignment.attempt_id, folder, 0)) == ""
    assert described(work) == expected


def test_what_is_set_aside_is_what_the_job_wrote(bench: Bench, data: Path) -> None:
    assignment, work = bench.begin(("data", bench.save(data)))
    (work / "mine").write_text("written by the job")
    aside = bench.settings.folder / "orphaned" / assignment.attempt_id.hex
    set_aside(bench.folder(assignment), aside)
    assert (aside / "work" / "mine").read_text() == "written by the job"
    assert not overlay.is_mounted(aside)
