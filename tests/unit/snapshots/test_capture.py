"""Saving folders: what is read, what is stored, in which order, and what is said about the rest."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path

import pytest

from dstack.snapshots import capture, packs
from dstack.snapshots.capture import save
from dstack.snapshots.errors import CaptureFailed, StoreRefused
from dstack.snapshots.interfaces import pack_key
from dstack.snapshots.listing import entries
from dstack.snapshots.manifests import DirectoryEntry, FileEntry
from dstack.snapshots.statcache import FileCache
from tests.support.snapshots import assert_restores, nested_files, paths
from tests.support.stores import RecordingStore, later

BIG = 3 * 1024 * 1024


@pytest.fixture
def root(root: Path) -> Path:
    return nested_files(root, BIG)


def test_counts_files_and_bytes(store: RecordingStore, root: Path) -> None:
    (root / "link").symlink_to("a")
    saved = save(root, store)
    assert (saved.files, saved.size, saved.warnings) == (4, 5 + 4 + BIG, ())
    assert saved.stored > BIG


def test_a_small_save_is_one_pack_and_one_question(store: RecordingStore, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    save(tmp_path, store)
    assert store.verbs() == ["missing", "put", "add", "sync"]


def test_the_same_again_stores_nothing(store: RecordingStore, root: Path) -> None:
    first = save(root, store)
    again = save(root, store)
    assert (again.manifest_id, again.stored) == (first.manifest_id, 0)
    assert store.verbs().count("put") == 1


def test_equal_files_are_stored_once(store: RecordingStore, tmp_path: Path) -> None:
    data = os.urandom(100_000)
    for number in range(20):
        (tmp_path / f"copy {number}").write_bytes(data)
    assert save(tmp_path, store).stored < 110_000


def test_the_disk_is_waited_for_only_at_the_end_of_a_job(store: RecordingStore, root: Path) -> None:
    save(root, store, live=True)
    assert "sync" not in store.verbs()
    save(root, store)
    assert store.verbs()[-1] == "sync"


def test_data_is_stored_and_recorded_before_what_names_it(
    store: RecordingStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every moment, an object that the catalog knows has everything below it in the catalog."""
    monkeypatch.setattr("dstack.snapshots.writer.PACK_TARGET", 1024 * 1024)
    monkeypatch.setattr("dstack.snapshots.writer.PENDING_BYTES", 512 * 1024)
    for number in range(40):
        (root / f"f{number}").write_bytes(os.urandom(200_000))
    saved = save(root, store)
    added = [value for verb, value in store.log if verb == "add"]
    assert len(added) > 8
    for position, (verb, value) in enumerate(store.log):
        if verb == "add":
            assert isinstance(value, bytes)
            assert ("put", pack_key(value)) in store.log[:position]
    order = {pack_id: number for number, pack_id in enumerate(added)}
    tree = store.root(saved.manifest_id).tree_id
    where = store.catalog.chunks
    tree_pack = order[where[tree].pack_id]
    assert order[where[saved.manifest_id].pack_id] >= tree_pack
    for entry in store.directories([tree])[tree].entries:
        below = (
            entry.tree_id
            if isinstance(entry, DirectoryEntry)
            else entry.digest
            if isinstance(entry, FileEntry)
            else b""
        )
        assert order[where[below].pack_id] <= tree_pack


def test_no_pack_is_larger_than_the_format_allows(store: RecordingStore, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(os.urandom(40 * 1024 * 1024))
    save(tmp_path, store)
    sizes = [info.size for info in store.blobs.list("")]
    assert len(sizes) > 1
    assert max(sizes) <= packs.MAX_PACK
    assert sum(sizes) < 41 * 1024 * 1024


def test_a_change_in_a_big_file_stores_the_change(store: RecordingStore, tmp_path: Path) -> None:
    data = bytearray(random.Random(1).randbytes(20 * 1024 * 1024))
    (tmp_path / "f").write_bytes(data)
    save(tmp_path, store)
    data[9_000_000:9_000_000] = random.Random(2).randbytes(1024 * 1024)
    (tmp_path / "f").write_bytes(data)
    assert save(tmp_path, store).stored <= 4 * 1024 * 1024 + 100_000


def test_a_change_in_a_folder_of_thousands_rewrites_a_page(store: RecordingStore, tmp_path: Path) -> None:
    for number in range(5000):
        (tmp_path / f"file-{number}").write_bytes(b"%d" % number)
    whole = save(tmp_path, store).stored
    (tmp_path / "file-77").write_bytes(b"changed")
    (tmp_path / "file-78 new").write_bytes(b"new")
    changed = save(tmp_path, store)
    assert changed.stored < whole / 10
    assert len(paths(store, changed)) == 5001


def test_unchanged_files_are_not_read_again(
    store: RecordingStore, root: Path, files_read: list[bytes], tmp_path: Path
) -> None:
    cache = FileCache(tmp_path / "cache")
    first = save(root, store, cache=cache, clock=later())
    assert sorted(files_read) == [b"a", b"b", b"big"]
    files_read.clear()
    for known in (cache, FileCache.load(tmp_path / "cache")):
        assert save(root, store, cache=known, clock=later()) == first._replace(stored=0)
    assert files_read == []
    (root / "sub" / "b").write_bytes(b"changed")
    changed = save(root, store, cache=FileCache.load(tmp_path / "cache"), clock=later())
    assert files_read == [b"b"]
    assert changed.manifest_id != first.manifest_id
    assert_restores(store, changed, root, tmp_path)


def test_a_file_that_changed_just_before_it_was_read_is_read_again(
    store: RecordingStore, root: Path, files_read: list[bytes]
) -> None:
    cache = FileCache()
    save(root, store, cache=cache, clock=later(1.5))
    files_read.clear()
    save(root, store, cache=cache, clock=later(10))
    assert sorted(files_read) == [b"a", b"b", b"big"]
    files_read.clear()
    save(root, store, cache=cache, clock=later(20))
    assert files_read == []


@pytest.mark.parametrize("what", ["removed", "added", "renamed", "mode", "folder removed", "link", "link moved"])
def test_every_kind_of_change_is_seen(store: RecordingStore, root: Path, tmp_path: Path, what: str) -> None:
    (root / "link").symlink_to("a")
    (root / "empty").mkdir()
    cache = FileCache()
    before = save(root, store, cache=cache, clock=later())
    match what:
        case "removed":
            (root / "a").unlink()
        case "added":
            (root / "sub" / "new").write_bytes(b"")
        case "renamed":
            (root / "sub" / "deep").rename(root / "sub" / "deeper")
        case "mode":
            (root / "a").chmod(0o755)
        case "folder removed":
            (root / "empty").rmdir()
        case "link":
            (root / "a").unlink()
            (root / "a").symlink_to("sub")
        case _:
            (root / "link").unlink()
            (root / "link").symlink_to("b")
    after = save(root, store, cache=cache, clock=later())
    assert after.content_id != before.content_id
    assert_restores(store, after, root, tmp_path)


def test_times_change_the_manifest_and_not_the_content(store: RecordingStore, root: Path) -> None:
    cache = FileCache()
    before = save(root, store, cache=cache, clock=later())
    os.utime(root / "sub" / "b", ns=(5, 5))
    os.utime(root / "sub", ns=(6, 6))
    after = save(root, store, cache=cache, clock=later())
    assert after.manifest_id != before.manifest_id
    assert after.content_id == before.content_id


def test_what_the_store_lost_is_stored_again(store: RecordingStore, root: Path, tmp_path: Path) -> None:
    cache = FileCache()
    first = save(root, store, cache=cache, clock=later())
    store.catalog.forget(list(store.catalog.chunks))
    again = save(root, store, cache=cache, clock=later())
    assert again == first._replace(stored=again.stored)
    assert again.stored > BIG
    assert_restores(store, again, root, tmp_path)


def test_a_damaged_cache_is_no_cache(
    store: RecordingStore, root: Path, files_read: list[bytes], tmp_path: Path
) -> None:
    path = tmp_path / "cache"
    first = save(root, store, cache=FileCache(path), clock=later())
    good = path.read_bytes()
    for damaged in (b"", b"garbage", good[:-1], good[:40] + bytes([good[40] ^ 1]) + good[41:], b"\0" * len(good)):
        path.write_bytes(damaged)
        files_read.clear()
        assert save(root, store, cache=FileCache.load(path), clock=later()).manifest_id == first.manifest_id
        assert sorted(files_read) == [b"a", b"b", b"big"]


def test_a_cache_that_cannot_be_written_does_not_fail_the_save(
    store: RecordingStore, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "no folder").write_bytes(b"")
    saved = save(root, store, cache=FileCache(tmp_path / "no folder" / "cache"))
    assert not saved.warnings
    assert "no folder/cache: what was read cannot be noted for the next save, " in caplog.text


def test_special_files_are_left_out_and_named_each_time(
    store: RecordingStore, root: Path, files_read: list[bytes]
) -> None:
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(root / "sub" / "sock"))
        cache = FileCache()
        first = save(root, store, cache=cache, clock=later())
        files_read.clear()
        again = save(root, store, cache=cache, clock=later())
    assert set(first.warnings) == {"pipe: not saved, it is a named pipe", "sub/sock: not saved, it is a socket"}
    assert again == first._replace(stored=0)
    assert files_read == []
    assert b"pipe" not in paths(store, first)


def test_links_are_kept_and_never_followed(store: RecordingStore, root: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_bytes(b"do not save")
    (root / "to-folder").symlink_to(secret)
    (root / "loop").symlink_to(".")
    (root / "to-file").symlink_to(secret / "key")
    saved = save(root, store)
    found = {entry.path: entry for entry in entries(store, saved.manifest_id)}
    assert found[b"to-folder"].target == bytes(secret)
    assert not any(path.startswith((b"to-folder/", b"loop/")) for path in found)
    assert_restores(store, saved, root, tmp_path)


def test_a_folder_swapped_for_a_link_leads_nowhere(
    store: RecordingStore, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job replaces a listed folder by a link to somewhere else before it is opened."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "b").write_bytes(b"do not save")
    real_open = os.open

    def swap(path: object, flags: int, *rest: object, **keywords: object) -> int:
        if path == b"sub":
            (root / "sub").rename(tmp_path / "moved")
            (root / "sub").symlink_to(secret)
        return real_open(path, flags, *rest, **keywords)  # pyright: ignore[reportCallIssue, reportArgumentType]

    monkeypatch.setattr(os, "open", swap)
    saved = save(root, store)
    assert paths(store, saved) == [b"a"]


def test_hard_links_stay_together(store: RecordingStore, root: Path, tmp_path: Path) -> None:
    os.link(root / "a", root / "sub" / "same as a")
    os.link(root / "sub" / "b", tmp_path / "outside")
    cache = FileCache()
    first = save(root, store, cache=cache, clock=later())
    assert store.links(store.root(first.manifest_id)) == ((b"a", b"sub/same as a"),)
    again = save(root, store, cache=cache, clock=later())
    assert again.manifest_id == first.manifest_id
    assert_restores(store, again, root, tmp_path)


@pytest.mark.parametrize("name", ["nothing there", "a file"])
def test_a_root_that_is_no_folder_is_an_error(store: RecordingStore, tmp_path: Path, name: str) -> None:
    (tmp_path / "a file").write_bytes(b"")
    with pytest.raises(CaptureFailed, match=f"cannot save .*{name}"):
        save(tmp_path / name, store)


def test_what_may_not_be_read_is_named(store: RecordingStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open = os.open

    def refuse(path: object, flags: int, *rest: object, **keywords: object) -> int:
        if path in (b"a", b"deep"):
            raise PermissionError(13, "Permission denied")
        return real_open(path, flags, *rest, **keywords)  # pyright: ignore[reportCallIssue, reportArgumentType]

    cache = FileCache()
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        saved = save(root, store, cache=cache, clock=later())
    assert sorted(saved.warnings) == ["a: not saved, Permission denied", "sub/deep: not saved, Permission denied"]
    assert paths(store, saved) == [b"sub", b"sub/b"]
    assert save(root, store, cache=cache, clock=later()).warnings == ()


@pytest.mark.parametrize("large", [False, True])
def test_a_store_that_refuses_ends_the_save(
    store: RecordingStore, root: Path, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    def refuse(key: str, data: object) -> bool:
        raise OSError(28, "No space left on device")

    if large:
        monkeypatch.setattr("dstack.snapshots.writer.PACK_TARGET", 1024 * 1024)
        monkeypatch.setattr("dstack.snapshots.writer.PENDING_BYTES", 512 * 1024)
    monkeypatch.setattr(store.memory, "put", refuse)
    with pytest.raises(StoreRefused, match="No space left"):
        save(root, store)
    assert store.catalog.chunks == {}


def test_nested_deeper_than_is_kept_is_a_warning(
    store: RecordingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dstack.snapshots.scanning.MAX_DEPTH", 3)
    (tmp_path / "1/2/3/4/5").mkdir(parents=True)
    saved = save(tmp_path, store)
    assert saved.warnings == ("1/2/3/4: not saved, more than 3 folders within each other",)


def test_memory_for_grown_files_is_bounded(
    store: RecordingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "TAILS", 2)
    for number in range(4):
        (tmp_path / f"log {number}").write_bytes(os.urandom(BIG))
    cache = FileCache()
    save(tmp_path, store, cache=cache, live=True)
    assert len(cache.tails) == 2
