"""What a snapshot lists."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import pytest

from dstack.snapshots.capture import save
from dstack.snapshots.chunking import digest
from dstack.snapshots.errors import MissingChunk, RestoreFailed
from dstack.snapshots.listing import entries
from tests.support.snapshots import sample_package
from tests.support.stores import RecordingStore


@pytest.fixture
def root(root: Path) -> Path:
    return sample_package(root)


def test_a_folder_comes_before_what_is_in_it(store: RecordingStore, root: Path) -> None:
    saved = save(root, store)
    found = list(entries(store, saved.manifest_id))
    assert [(entry.path, entry.type, entry.size) for entry in found] == [
        (b"a-first", "file", 0),
        (b"main.py", "file", 8),
        (b"pkg", "directory", 9_000_010),
        (b"pkg/big", "file", 9_000_000),
        (b"pkg/empty", "directory", 0),
        (b"pkg/link", "symlink", 0),
        (b"pkg/tool", "file", 10),
    ]
    assert found[6].mode == 0o755
    assert found[6].mtime == (root / "pkg/tool").stat().st_mtime_ns
    assert found[5].target == b"../main.py"
    assert found[1].digest == digest(b"print()\n")


@pytest.mark.parametrize("prefix", [b"pkg", b"pkg/"])
def test_of_one_folder(store: RecordingStore, root: Path, prefix: bytes) -> None:
    saved = save(root, store)
    found = [entry.path for entry in entries(store, saved.manifest_id, prefix)]
    assert found == [b"pkg", b"pkg/big", b"pkg/empty", b"pkg/link", b"pkg/tool"]


def test_of_nothing(store: RecordingStore, root: Path) -> None:
    saved = save(root, store)
    with pytest.raises(RestoreFailed, match="not in the snapshot: pk"):
        list(entries(store, saved.manifest_id, b"pk"))


def test_a_folder_of_many_pages_is_read_some_at_a_time(store: RecordingStore, tmp_path: Path) -> None:
    """In order, and without all of it in memory; folders within it are read ahead all the same."""
    for number in range(1500):
        (tmp_path / f"file {number:04}").write_bytes(b"")
    for number in range(0, 1500, 100):
        (tmp_path / f"file {number:04} folder" / "within").mkdir(parents=True)
    saved = save(tmp_path, store)
    page = store.directories([store.root(saved.manifest_id).tree_id]).popitem()[1].pages[0]
    many, few = (list(_listed(store, saved.manifest_id, pages)) for pages in (1000, 1))
    assert many == few == sorted(os.fsencode(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    store.catalog.forget([page])
    with pytest.raises(MissingChunk, match=page.hex()):
        list(entries(store, saved.manifest_id))


def _listed(store: RecordingStore, manifest_id: bytes, pages: int) -> list[bytes]:
    with mock.patch("dstack.snapshots.store.PAGES", pages), mock.patch("dstack.snapshots.listing.AHEAD", pages):
        return [entry.path for entry in entries(store, manifest_id)]
