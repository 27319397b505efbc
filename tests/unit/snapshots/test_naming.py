"""With `whole`, a name stands for the old file or the new one at any time."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from dstack.snapshots.capture import save
from dstack.snapshots.errors import MissingChunk, RestoreFailed
from dstack.snapshots.lookup import locate
from dstack.snapshots.manifests import FileEntry
from dstack.snapshots.restore import restore
from tests.support.snapshots import sample_package
from tests.support.stores import RecordingStore
from tests.support.trees import described

BATCH = 1 << 20


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dstack.snapshots.batches.BATCH_BYTES", BATCH)


@pytest.fixture
def root(root: Path) -> Path:
    """Small files, links, a file of several batches, and one in a folder that may not be written to."""
    sample_package(root)
    (root / "big").write_bytes(os.urandom(3 * BATCH))
    (root / "closed").mkdir()
    (root / "closed" / "file").write_bytes(b"content")
    (root / "closed" / "same").hardlink_to(root / "closed" / "file")
    (root / "link").symlink_to("big")
    (root / "closed").chmod(0o500)
    return root


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


@pytest.fixture
def older(root: Path, target: Path) -> Path:
    """The target with other content in each of its files."""
    shutil.copytree(root, target, symlinks=True)
    for path in files(target):
        path.unlink()
        path.write_bytes(b"older")
    return target


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_symlink() or path.is_file())


def remains(folder: Path) -> list[Path]:
    return sorted(folder.rglob(".dstack-*.part"))


def killed(work: Callable[[], object]) -> int:
    """Do it in a process of its own, which is expected to be killed; its id."""
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    return pid


@pytest.mark.parametrize("over", [False, True])
def test_everything_comes_back(
    store: RecordingStore, root: Path, target: Path, over: bool, request: pytest.FixtureRequest
) -> None:
    if over:
        request.getfixturevalue("older")
    restore(store, save(root, store).manifest_id, target, whole=True)
    assert described(target) == described(root)
    assert (target / "closed/file").samefile(target / "closed/same")


@pytest.mark.parametrize("call", [1, 3, 6])
def test_who_is_killed_leaves_each_file_old_or_new(
    store: RecordingStore, root: Path, older: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    saved = save(root, store)
    pwrite, left = os.pwrite, [call]

    def until(fd: int, data: bytes, offset: int) -> int:
        left[0] -= 1
        if not left[0]:
            pwrite(fd, data[: len(data) // 2], offset)
            os._exit(9)
        return pwrite(fd, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", until)
        pid = killed(partial(restore, store, saved.manifest_id, older, whole=True))
    assert [path.name.split("-")[1] for path in remains(older)] == [str(pid)]
    new = 0
    for path in files(root):
        at = older / path.relative_to(root)
        same = os.readlink(at) == os.readlink(path) if at.is_symlink() else at.read_bytes() == path.read_bytes()
        assert same or at.read_bytes() == b"older", path
        new += same
    assert new < len(files(root))
    restore(store, saved.manifest_id, older, whole=True)
    assert described(older) == described(root), "and nothing is left of the one before"


def test_an_error_leaves_the_old_file_and_nothing_else(store: RecordingStore, root: Path, older: Path) -> None:
    saved = save(root, store)
    big = locate(store, saved.manifest_id, b"big").entry
    assert isinstance(big, FileEntry)
    store.catalog.forget([big.chunks[-36:-4]])
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(MissingChunk):
        restore(store, saved.manifest_id, older, whole=True)
    assert (older / "big").read_bytes() == b"older"
    assert not remains(older)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_folder_in_the_way_stays(store: RecordingStore, root: Path, target: Path) -> None:
    saved = save(root, store)
    (target / "big" / "mine").mkdir(parents=True)
    with pytest.raises(RestoreFailed, match=r"/big is in the way: the snapshot has a file there; move it away"):
        restore(store, saved.manifest_id, target, whole=True)
    assert (target / "big" / "mine").is_dir()
    assert not remains(target)


def test_what_another_process_is_making_stays(store: RecordingStore, root: Path, target: Path) -> None:
    saved = save(root, store)
    target.mkdir()
    (target / f".dstack-{os.getppid()}-1.part").write_bytes(b"of another")
    (target / f".dstack-{sys.maxsize}-1.part").write_bytes(b"of nobody")
    (target / ".dstack-mine.part").write_bytes(b"of a person")
    restore(store, saved.manifest_id, target, whole=True)
    assert [path.name for path in remains(target)] == [f".dstack-{os.getppid()}-1.part", ".dstack-mine.part"]
