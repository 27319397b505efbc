"""Uploading local files: what they are, and what a bar is told of meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dstack.client import uploading
from dstack.client.api import Api, ApiError
from dstack.client.sources import ArtifactError
from dstack.client.types import Run
from dstack.client.uploading import Local, locate
from dstack.snapshots.blobs.memory import MemoryBlobStore
from dstack.snapshots.catalog import MemoryCatalog
from dstack.snapshots.statcache import FileCache
from dstack.snapshots.store import SnapshotStore
from tests.support.stores import RecordingCatalog


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


class Collected(NoServer):
    """Has lost what was saved when it hears of the run, `times` times."""

    def __init__(self, catalog: RecordingCatalog, times: int) -> None:
        super().__init__()
        self.keys: list[str] = []
        self._catalog = catalog
        self._times = times

    def upload(self, upload: Any, key: str) -> Run:
        self.keys.append(key)
        if len(self.keys) <= self._times:
            self._catalog.forget(list(self._catalog.chunks))
        if self._catalog.missing([bytes.fromhex(item["manifest_id"]) for item in upload["artifacts"]]):
            raise ApiError(409, "snapshot-missing", "what was saved of data is not in the store")
        return {"name": "odd-cat-1"}


def test_what_the_store_has_collected_meanwhile_is_saved_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dstack.snapshots.statcache.SETTLED", 0)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_bytes(b"x" * 1000)
    catalog = RecordingCatalog([])
    store, found = SnapshotStore(MemoryBlobStore(), catalog), [Local(tmp_path / "data", "data", None)]
    server = Collected(catalog, 1)
    done = uploading.upload(server, found, home=str(tmp_path), store=store)
    assert (done.run.get("name"), done.stored > 0) == ("odd-cat-1", True)
    assert (len(server.keys), len(set(server.keys))) == (2, 1), "one run, whichever of the two made it"
    with pytest.raises(ApiError, match="not in the store"):
        uploading.upload(server := Collected(catalog, 9), found, home=str(tmp_path), store=store)
    assert len(server.keys) == 2, "twice is not by chance"


def test_an_empty_path_is_none(tmp_path: Path) -> None:
    """A variable of the shell that is not set; the current folder is not meant."""
    with pytest.raises(ArtifactError, match="an empty path names no file or folder"):
        locate([str(tmp_path), ""])
