"""With `whole`, a name stands for the old file or the new one at any time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from dstack.snapshots import naming
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


@pytest.fixture(autouse=True, params=["without a name", "with a name of its own"])
def unnamed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """How files are begun: as on most file systems of Linux, and as elsewhere."""
    if request.param == "without a name":
        return True
    monkeypatch.setattr(naming, "_UNNAMED", 0)
    return False


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
    return sorted(folder.rglob(".dstack-*"))


def killed(work: Callable[[], object]) -> None:
    """Do it in a process of its own, which is expected to be killed."""
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


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
    store: RecordingStore, root: Path, older: Path, monkeypatch: pytest.MonkeyPatch, call: int, unnamed: bool
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
        killed(partial(restore, store, saved.manifest_id, older, whole=True))
    left_over = remains(older)
    assert len(left_over) == (not unnamed)
    new = 0
    for path in files(root):
        at = older / path.relative_to(root)
        same = os.readlink(at) == os.readlink(path) if at.is_symlink() else at.read_bytes() == path.read_bytes()
        assert same or at.read_bytes() == b"older", path
        new += same
    assert new < len(files(root))
    for path in left_over:
        path.unlink()
    restore(store, saved.manifest_id, older, whole=True)
    assert described(older) == described(root)


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


def test_links_in_the_way_are_replaced(store: RecordingStore, root: Path, older: Path) -> None:
    """Also by another name of the same file, which a rename would leave as it is."""
    saved = save(root, store)
    restore(store, saved.manifest_id, older, whole=True)
    restore(store, saved.manifest_id, older, whole=True)
    assert described(older) == described(root)
    (older / "link").unlink()
    (older / "link").mkdir()
    with pytest.raises(RestoreFailed, match=r"/link is in the way: the snapshot has a file there"):
        restore(store, saved.manifest_id, older, whole=True)
    assert not remains(older)


def test_several_at_once_into_one_folder(store: RecordingStore, tmp_path: Path) -> None:
    """Each file is one of theirs, whole."""
    contents = [bytes([number]) * (BATCH // 2) for number in range(3)]
    ids: list[bytes] = []
    for number, content in enumerate(contents):
        folder = tmp_path / f"of-{number}"
        folder.mkdir()
        for name in range(6):
            (folder / f"{name}").write_bytes(content + b"%d" % name)
        ids.append(save(folder, store).manifest_id)
    target = tmp_path / "target"
    with ThreadPoolExecutor(len(ids)) as threads:
        for _ in range(3):
            list(threads.map(lambda manifest_id: restore(store, manifest_id, target, whole=True), ids))
    for path in target.iterdir():
        assert path.read_bytes() in [content + path.name.encode() for content in contents]
    assert not remains(target)
