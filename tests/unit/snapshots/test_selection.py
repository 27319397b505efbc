"""Saving exactly the files that were named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dstack.snapshots.capture import save
from tests.support.snapshots import nested_files, paths
from tests.support.stores import RecordingStore


@pytest.fixture
def root(root: Path) -> Path:
    return nested_files(root, 3 * 1024 * 1024)


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
