"""What a bar is told of while local files are uploaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from dstack.client import uploading
from dstack.client.api import Api
from dstack.client.types import Run
from dstack.client.uploading import Local
from dstack.snapshots.blobs.memory import MemoryBlobStore
from dstack.snapshots.catalog import MemoryCatalog
from dstack.snapshots.statcache import FileCache
from dstack.snapshots.store import SnapshotStore


class NoServer(Api):
    """Takes the run and answers with nothing."""

    def __init__(self) -> None:
        super().__init__(lambda: pytest.fail("nothing is asked over a connection"))

    def upload(self, upload: object, key: str) -> Run:
        return {}


def test_what_did_not_change_counts_for_the_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, store = FileCache(), SnapshotStore(MemoryBlobStore(), MemoryCatalog())
    monkeypatch.setattr(uploading, "remote_store", lambda api: store)
    monkeypatch.setattr(FileCache, "load", lambda path: cache)
    monkeypatch.setattr("dstack.snapshots.statcache.SETTLED", 0)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_bytes(b"x" * 1000)
    stored = [_upload(tmp_path) for _ in range(2)]
    assert stored[0] > stored[1] == 0


def _upload(tmp_path: Path) -> int:
    told: list[int] = []
    found = [Local(tmp_path / "data", "data", None)]
    done = uploading.upload(NoServer(), found, home=str(tmp_path), watch=told.append)
    assert (sum(told), done.size) == (1000, 1000)
    return done.stored
