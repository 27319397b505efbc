"""The blob stores of this project against the suite that plugins get."""

from __future__ import annotations

import errno
import os
import threading
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from dstack.sdk.blobs import BlobStore
from dstack.sdk.testing.blobs import BlobStoreConformance
from dstack.snapshots.blobs.local import LocalBlobStore, write_once
from dstack.snapshots.blobs.memory import MemoryBlobStore
from dstack.snapshots.errors import StoreGone, StoreRefused


class TestMemory(BlobStoreConformance):
    def make_store(self, tmp_path: Path) -> BlobStore:
        return MemoryBlobStore()


class TestLocal(BlobStoreConformance):
    def make_store(self, tmp_path: Path) -> BlobStore:
        return LocalBlobStore(tmp_path / "not there yet" / "store")

    @pytest.mark.parametrize("key", ["", "/etc/passwd", "a/../../b", "..", "a//b", "a/./b", "a\0b", "a/.tmp-1"])
    def test_a_key_never_leads_out(self, tmp_path: Path, key: str) -> None:
        store = self.make_store(tmp_path)
        with pytest.raises(ValueError, match="is not a key"):
            store.put(key, b"x")
        with pytest.raises(ValueError, match="is not a key"):
            store.get(key)

    def test_nobody_else_may_look_into_it(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o755)
        LocalBlobStore(tmp_path).put("packs/ab/one", b"1")
        assert {path.stat().st_mode & 0o077 for path in tmp_path.rglob("*") if path.is_dir()} == {0}

    def test_the_holder_of_a_signed_put_writes_the_blob(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        store.put("packs/ab/zero", b"made the store")
        signed = store.sign("PUT", "packs/ab/one", timedelta(minutes=1))
        assert signed is not None
        path = Path(unquote(urlsplit(signed.url).path))
        assert write_once(path, b"content") is True
        assert write_once(path, b"other") is False
        assert store.get("packs/ab/one") == b"content"

    def test_unfinished_files_are_no_blobs_and_go_when_stale(self, tmp_path: Path) -> None:
        store = LocalBlobStore(tmp_path)
        store.put("packs/ab/one", b"1")
        stale, fresh = tmp_path / "packs/ab/.tmp-stale", tmp_path / "packs/ab/.tmp-fresh"
        stale.write_bytes(b"half")
        fresh.write_bytes(b"half")
        os.utime(stale, (1, 1))
        assert [found.key for found in store.list("")] == ["packs/ab/one"]
        store.sync()
        assert (stale.exists(), fresh.exists()) == (False, True)

    def test_sync_writes_out_files_and_folders_also_of_a_process_before(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        LocalBlobStore(tmp_path).put("packs/ab/before", b"1")
        store = LocalBlobStore(tmp_path)
        store.put("packs/cd/now", b"2")
        synced: list[str] = []
        monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
        store.sync()
        names = ["packs/ab/before", "packs/cd/now", "packs/ab", "packs/cd", "packs", "", ".."]
        assert {os.path.normpath(tmp_path / name) for name in names} <= set(synced)
        synced.clear()
        store.sync()
        assert synced == []

    def test_sync_waits_for_what_another_sync_took_along(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A second save whose chunks the first one's sync is still writing out must not commit before they are."""
        store = LocalBlobStore(tmp_path)
        store.put("packs/ab/one", b"1")
        begun, go, second = threading.Event(), threading.Event(), threading.Event()

        def fsync(fd: int) -> None:
            begun.set()
            go.wait()

        monkeypatch.setattr(os, "fsync", fsync)
        threads = [threading.Thread(target=store.sync) for _ in range(2)]
        threads[0].start()
        begun.wait()
        threads[1].start()
        watcher = threading.Thread(target=lambda: (threads[1].join(), second.set()))
        watcher.start()
        assert not second.wait(0.05)
        go.set()
        for thread in (*threads, watcher):
            thread.join()
        assert second.is_set()

    def test_what_a_sync_could_not_write_out_is_waited_for_by_the_next(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = LocalBlobStore(tmp_path)
        store.put("packs/ab/one", b"1")
        store.sync()
        store.put("packs/ab/two", b"2")
        store.note("packs/ab/three")  # it was deleted meanwhile
        synced: list[str] = []

        def fsync(fd: int) -> None:
            synced.append(os.readlink(f"/proc/self/fd/{fd}"))
            if len(synced) == 1:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(StoreRefused, match="Input/output error"):
            store.sync()
        synced.append("again")
        store.sync()
        assert str(tmp_path / "packs/ab/two") in synced[synced.index("again") :]

    def test_a_store_that_is_gone_has_nothing_synced(self, tmp_path: Path) -> None:
        there = [True]
        store = LocalBlobStore(tmp_path, lambda: there[0])
        store.put("packs/ab/one", b"1")
        (tmp_path / "packs").rename(tmp_path / "elsewhere")
        there[0] = False
        with pytest.raises(StoreGone, match="its disk is not mounted"):
            store.sync()

    @pytest.mark.parametrize(
        ("number", "said"),
        [(errno.ENOSPC, "disk full on"), (errno.EROFS, "cannot write"), (errno.EACCES, "cannot write")],
    )
    def test_a_disk_that_takes_no_more_is_named_and_left_clean(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
    ) -> None:
        store = LocalBlobStore(tmp_path)
        store.put("packs/ab/before", b"1")

        def refuse(fd: int, data: memoryview) -> int:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", refuse)
            with pytest.raises(StoreRefused, match=said) as caught:
                store.put("packs/ab/one", b"content")
        assert str(tmp_path / "packs/ab") in str(caught.value)
        assert os.listdir(tmp_path / "packs/ab") == ["before"]
        assert store.put("packs/ab/one", b"content") is True
