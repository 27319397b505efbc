"""Saving exactly the files that were named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dstack.snapshots.capture import save
from dstack.snapshots.listing import entries
from dstack.snapshots.statcache import SavedSnapshot
from dstack.snapshots.store import SnapshotStore
from tests.support.stores import RecordingStore


@pytest.fixture
def store() -> RecordingStore:
    return RecordingStore()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "a").write_bytes(b"alpha")
    (folder / "sub" / "b").write_bytes(b"beta")
    (folder / "sub" / "deep" / "big").write_bytes(os.urandom(3 * 1024 * 1024))
    return folder


def paths(store: SnapshotStore, saved: SavedSnapshot) -> list[bytes]:
    return [entry.path for entry in entries(store, saved.manifest_id)]


def test_exactly_the_chosen_files(store: RecordingStore, root: Path) -> None:
    (root / "sub" / "link").symlink_to("b")
    (root / "submodule").mkdir()
    chosen = [b"sub/b", b"sub/link", b"submodule"]
    saved = save(root, store, paths=chosen)
    assert paths(store, saved) == [b"sub", b"sub/b", b"sub/link", b"submodule"]
    os.utime(root / "sub", ns=(1, 1))
    (root / "sub" / "other").write_bytes(b"not chosen")
    assert save(root, store, paths=chosen).manifest_id == saved.manifest_id


def test_a_chosen_file_that_is_not_there_is_named(store: RecordingStore, root: Path) -> None:
    (root / "to-sub").symlink_to("sub")
    saved = save(root, store, paths=[b"a", b"gone", b"gone too/x", b"sub/b/x", b"to-sub/b"])
    assert paths(store, saved) == [b"a", b"sub"]
    assert sorted(saved.warnings) == [
        "gone too: not saved, No such file or directory",
        "gone: not saved, No such file or directory",
        "sub/b: not saved, it is no folder",
        "to-sub: not saved, it is no folder",
    ]


@pytest.mark.parametrize("path", [b"", b"/etc/passwd", b"../x", b"a/../b", b"a//b", b"a/.", b"a\0b"])
def test_a_chosen_path_never_leads_out(store: RecordingStore, root: Path, path: bytes) -> None:
    with pytest.raises(ValueError, match="is not a relative path"):
        save(root, store, paths=[path])
