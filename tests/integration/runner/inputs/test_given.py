"""What a job is given: as a restore would put it there, each way, and nobody's but the job's own to change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dstack.runner import overlay
from dstack.runner.environments import SetupError
from dstack.runner.inputs import look
from dstack.runner.settings import Settings
from dstack.snapshots.errors import RestoreFailed
from dstack.snapshots.restore import restore
from tests.support.inputs import Bench
from tests.support.stores import RecordingStore
from tests.support.trees import described

WAYS = ("overlay", "copy", "direct", "reflink btrfs", "reflink xfs", "overlay btrfs")

every_way = pytest.mark.parametrize("bench", WAYS, indirect=True)


@every_way
def test_an_input_is_what_was_saved(bench: Bench, data: Path) -> None:
    manifest_id = bench.save(data)
    for _ in range(2):
        assignment, work = bench.begin(("data", manifest_id))
        assert described(work / "data") == described(data)
        assert (work / "data" / "sparse").stat().st_blocks * 512 < 8 << 20
        bench.end(assignment)
        assert not bench.folder(assignment).exists()


@every_way
def test_what_a_job_does_to_its_input_is_its_own(bench: Bench, data: Path) -> None:
    """It writes into files, grows, cuts, removes and renames them, and changes modes and times."""
    manifest_id = bench.save(data)
    _, first = bench.begin(("data", manifest_id))
    _, second = bench.begin(("data", manifest_id))
    with open(first / "data" / "big", "r+b") as file:
        file.write(b"another beginning")
    with open(first / "data" / "none", "ab") as file:
        file.write(b"not empty any more")
    os.truncate(first / "data" / "sparse", 10)
    (first / "data" / "deep" / "er" / "script").unlink()
    (first / "data" / "deep").rename(first / "data" / "elsewhere")
    (first / "data" / "empty").chmod(0o700)
    os.utime(first / "data" / "big", (1, 1))
    assert described(second / "data") == described(data)
    _, third = bench.begin(("data", manifest_id))
    assert described(third / "data") == described(data)
    assert (first / "data" / "big").read_bytes().startswith(b"another beginning")
    assert sorted(os.listdir(first / "data")) == ["big", "elsewhere", "empty", "link", "none", "sparse"]


@every_way
def test_a_job_moves_and_removes_its_input_as_a_whole(bench: Bench, data: Path) -> None:
    manifest_id = bench.save(data)
    _, work = bench.begin(("data", manifest_id), ("more/data", manifest_id))
    subprocess.run("mv data data2 && rm -rf more && mkdir more data && ls data more", shell=True, check=True, cwd=work)
    assert described(work / "data2") == described(data)
    assert sorted(os.listdir(work)) == ["data", "data2", "more"]
    assert os.listdir(work / "data") == os.listdir(work / "more") == []
    _, other = bench.begin(("data", manifest_id))
    assert described(other / "data") == described(data)


@every_way
def test_an_input_takes_the_place_of_what_the_code_has_there(bench: Bench, data: Path, tmp_path: Path) -> None:
    """As where all is restored one over the other: the input's files win, others stay."""
    code = tmp_path / "code"
    (code / "data" / "deep").mkdir(parents=True)
    for name in ("train.py", "data/.gitkeep", "data/none", "data/link", "data/deep/own"):
        (code / name).write_text(f"the code's {name}")
    (code / "alias").symlink_to("data")
    small, large = bench.save(code), bench.save(data)
    expected = tmp_path / "expected"
    restore(bench.store, small, expected)
    restore(bench.store, large, expected / "data")
    for code_is_large in (False, True):
        if not code_is_large:
            bench.shop.materialiser.unpack(small, tmp_path / "unpacked")  # known to be small from here on
        else:
            bench = Bench(bench.settings.home, bench.store, bench.settings.inputs_way)
        assignment, work = bench.begin(("alias", large), code=small)
        assert without_times(work) == without_times(expected)
        assert described(work)[b"data/deep/er/script"].mtime == described(data)[b"deep/er/script"].mtime
        bench.end(assignment)


def without_times(folder: Path) -> dict[bytes, object]:
    """A hard link that was replaced is one no more: those of the input only."""
    return {path: found._replace(mtime=0, links=()) for path, found in described(folder).items()}


@every_way
def test_an_attempt_begins_with_what_the_one_before_made_of_its_input(bench: Bench, data: Path) -> None:
    """The artifact folder is an input, too: what was saved of it comes last, and the input stays whole for others."""
    manifest_id, expected = bench.save(data), described(data)
    (data / "big").write_bytes(b"a checkpoint in its place")
    (data / "deep" / "new").write_text("another")
    _, work = bench.begin(("data", manifest_id), artifacts=["data"], earlier={"data": bench.save(data)})
    assert without_times(work / "data") == without_times(data)
    _, other = bench.begin(("data", manifest_id))
    assert described(other / "data") == expected


@every_way
def test_what_is_in_the_way_is_told(bench: Bench, data: Path, tmp_path: Path) -> None:
    code = tmp_path / "code"
    (code / "data").mkdir(parents=True)
    (code / "data" / "deep").write_text("a file where the input has a folder")
    small, large = bench.save(code), bench.save(data)
    bench.shop.materialiser.unpack(small, tmp_path / "unpacked")
    with pytest.raises(RestoreFailed, match="deep is in the way"):
        bench.begin(("data", large), code=small)


def test_more_inputs_than_an_overlay_takes(bench: Bench, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dstack.runner.overlay.MOST_LAYERS", 2)
    manifest_id = bench.save(data)
    places = ("a", "b", "c", "d")
    assignment, work = bench.begin(*((place, manifest_id) for place in places))
    assert all(described(work / place) == described(data) for place in places)
    assert overlay.is_mounted(bench.folder(assignment))
    assert len(bench.entries()) == 2


@pytest.mark.parametrize("way", ["reflink", "overlay"])
def test_what_the_machine_does_not_allow_is_restored(
    tmp_path: Path, data: Path, way: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It was possible when it was tried, and is not any more."""
    monkeypatch.setattr("dstack.runner.cloning.obstacle", lambda *_: "")
    monkeypatch.setattr("dstack.runner.overlay.obstacle", lambda *_: "")

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("dstack.runner.overlay.mount", refuse)
    monkeypatch.setattr("dstack.runner.cloning.share_blocks", refuse)
    bench = Bench(tmp_path / "home", RecordingStore(), way)
    assignment, work = bench.begin(("data", bench.save(data)))
    assert described(work / "data") == described(data)
    assert not (bench.folder(assignment) / "layers").exists()
    assert "Operation not permitted" in caplog.text


def test_without_the_right_to_mount_no_overlay_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert look(Settings(home=tmp_path)).overlay == "only root may mount an overlay"


@pytest.mark.parametrize("way", ["copy_bytes", "None"])
def test_folders_that_nobody_may_write_to_come_along(tmp_path: Path, data: Path, way: str) -> None:
    """… put by one who is bound by that, also where they are there already, and removed by the same."""
    target, other = tmp_path / "attempt", tmp_path / "another"
    for folder, mode in (("deep/er", 0o555), ("deep", 0o500), ("empty", 0o555)):
        (data / folder).chmod(mode)
    (target / "deep" / "er").mkdir(parents=True)
    (target / "deep" / "er" / "script").write_text("in the way")
    (target / "deep" / "er").chmod(0o000)
    (target / "deep").chmod(0o500)
    program = (
        "import sys; from pathlib import Path; from dstack.runner.cloning import put_tree, copy_bytes\n"
        "from dstack.runner.folders import sweep\n"
        "source, target, other = map(Path, sys.argv[1:])\n"
        f"put_tree(source, target, {way}); put_tree(source, other, {way}); sweep(other)"
    )
    bound = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    subprocess.run([*bound, sys.executable, "-c", program, data, target, other], check=True)
    assert described(target) == described(data)
    assert not other.exists()


@pytest.mark.parametrize("bench", ["overlay", "copy", "direct"], indirect=True)
def test_a_damaged_input_is_named_with_what_makes_it_anew(bench: Bench, data: Path) -> None:
    manifest_id = bench.save(data)
    assert isinstance(bench.store, RecordingStore)
    bench.store.catalog.forget(list(bench.store.catalog.chunks))
    with pytest.raises(SetupError, match=r"its input data of calm-crab-1/prepare is damaged: .*missing") as caught:
        bench.begin(("data", manifest_id))
    assert "`dstack restart calm-crab-1 prepare` makes it anew" in str(caught.value)
