"""A process that puts links in the way of a restore while it goes on (F30, F31): nothing is written where they lead."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from dstack.client.api import Api
from dstack.client.artifacts import download, places_of
from dstack.client.sources import ArtifactError
from dstack.client.types import Artifact
from dstack.snapshots import restore as restoring
from dstack.snapshots.below import open_below, open_writable
from dstack.snapshots.capture import save
from dstack.snapshots.errors import RestoreFailed
from dstack.snapshots.restore import restore
from tests.support.stores import RecordingStore
from tests.support.trees import described

SWAP = """
import os, sys
folder, aside, away = sys.argv[1:]
print("begun", flush=True)
while True:
    try:
        os.rename(folder, aside)
        os.symlink(away, folder)
        os.unlink(folder)
        os.rename(aside, folder)
    except FileNotFoundError:
        pass
    except OSError:  # the restore made the folder meanwhile
        os.rename(folder, aside + "x")
        os.rename(aside + "x", aside)
"""
FILES = 40


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A folder that nobody may touch; checked at the end."""
    folder = tmp_path / "canary"
    (folder / "sub").mkdir(parents=True, mode=0o750)
    (folder / "sub" / "0").write_bytes(b"untouched")
    before = described(folder), folder.stat().st_mtime_ns, folder.stat().st_mode
    yield folder
    assert (described(folder), folder.stat().st_mtime_ns, folder.stat().st_mode) == before


@pytest.fixture
def saved(tmp_path: Path) -> tuple[RecordingStore, bytes]:
    store = RecordingStore()
    (tmp_path / "in" / "a" / "sub").mkdir(parents=True)
    for number in range(FILES):
        (tmp_path / "in" / "a" / "sub" / str(number)).write_bytes(b"written by the restore")
    return store, save(tmp_path / "in", store).manifest_id


def test_a_process_that_swaps_a_folder_for_a_link(
    saved: tuple[RecordingStore, bytes], canary: Path, tmp_path: Path
) -> None:
    store, manifest_id = saved
    target = tmp_path / "target"
    (target / "a").mkdir(parents=True)
    swapping = subprocess.Popen(
        [sys.executable, "-c", SWAP, target / "a", tmp_path / "aside", canary], stdout=subprocess.PIPE
    )
    try:
        assert swapping.stdout is not None
        swapping.stdout.readline()
        ended: set[str] = set()
        for _ in range(150):
            try:
                restore(store, manifest_id, target)
                ended.add("done")
            except RestoreFailed:
                ended.add("refused")
        assert ended, "whatever each of them came to, the canary is as it was"
    finally:
        swapping.kill()
        swapping.communicate()


@pytest.mark.parametrize("call", ["stat", "mkdir"])
def test_a_link_that_appears_between_two_steps(
    saved: tuple[RecordingStore, bytes], canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The same, at the worst moment: the folder was just looked at, or just made."""
    store, manifest_id = saved
    target = tmp_path / "target"
    if call == "stat":
        (target / "a").mkdir(parents=True)
    real = getattr(os, call)

    def swapped(path: Any, *args: Any, **more: Any) -> Any:
        found = real(path, *args, **more)
        if path == b"a":
            os.rename(target / "a", tmp_path / "aside")
            os.symlink(canary, target / "a")
        return found

    monkeypatch.setattr(restoring.os, call, swapped)
    with pytest.raises(RestoreFailed, match=r"target/a"):
        restore(store, manifest_id, target)


def test_a_link_on_the_way_to_the_target(
    saved: tuple[RecordingStore, bytes], canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an artifact goes was checked, and the folder above it is then swapped: the download stops there."""
    store, manifest_id = saved
    artifacts = [cast("Artifact", {"path": "out/deep", "job": "train", "manifest_id": manifest_id.hex()})]
    target = tmp_path / "target"
    (target / "out").mkdir(parents=True)
    places = places_of(artifacts, target)
    real = os.path.realpath
    looks: list[object] = []

    def swapped(path: Any, **more: Any) -> Any:
        found = real(path, **more)
        looks.extend([path] if os.fspath(path).endswith("out/deep") else [])
        if len(looks) == 3 and not (target / "out").is_symlink():  # twice by the download, and then by the restore
            os.rename(target / "out", tmp_path / "aside")
            os.symlink(canary, target / "out")
        return found

    monkeypatch.setattr("dstack.snapshots.below.os.path.realpath", swapped)
    with pytest.raises(RestoreFailed, match=r"cannot write .*/target/out/deep"):
        download(cast("Api", None), places, target, store=store)
    assert (target / "out").is_symlink()


@pytest.mark.parametrize(
    "path",
    [
        "..", "../canary", "a/../../canary", "/etc", "//proc/self/root/tmp", "a\0b", "out/../../canary/sub",
        "../target-not/x", "./../canary",
    ],
)  # fmt: skip
@pytest.mark.parametrize("job", ["train", "..", "../..", "/etc", "../canary"])
def test_paths_of_a_forged_answer(
    saved: tuple[RecordingStore, bytes], canary: Path, tmp_path: Path, path: str, job: str
) -> None:
    """A server's word for where artifacts go is not believed."""
    store, manifest_id = saved
    target = tmp_path / "target"
    answers = [{"path": path, "job": job, "manifest_id": manifest_id.hex()} for _ in range(2)]
    before = sorted(os.listdir(tmp_path))
    for count in (1, 2):  # two of one path go below the job's name
        with contextlib.suppress(ArtifactError):
            places = places_of(cast("list[Artifact]", answers[:count]), target)
            download(cast("Api", None), places, target, store=store, overwrite=True)
        assert sorted(name for name in os.listdir(tmp_path) if name != "target") == before


def test_folders_are_opened_one_by_one(canary: Path, tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "real").mkdir(parents=True)
    (top / "within").symlink_to("real")
    (top / "away").symlink_to(canary)
    os.close(open_below(top, top / "within" / "made"))
    assert (top / "real" / "made").is_dir()
    with pytest.raises(RestoreFailed, match="would lie outside of"):
        open_below(top, top / "away" / "made")
    folder = os.open(top, os.O_RDONLY)
    try:
        with pytest.raises(NotADirectoryError):
            open_writable(b"away", folder)
    finally:
        os.close(folder)
