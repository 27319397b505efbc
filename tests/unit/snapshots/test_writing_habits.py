"""How programs write what they keep: renamed into place, appended, whole folders at once, very many files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from dstack.snapshots import capture, scanning
from dstack.snapshots.capture import save
from dstack.snapshots.chunking import DEFAULT, ChunkerParameters
from dstack.snapshots.restore import restore
from dstack.snapshots.statcache import FileCache
from tests.support.snapshots import Meddle, assert_restores
from tests.support.stores import RecordingStore, later
from tests.support.trees import described

BIG = 3 * 1024 * 1024


def replace(path: Path, data: bytes) -> None:
    """As `torch.save` into a temporary file and `os.replace` do it."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


class TestRenamedIntoPlace:
    @pytest.mark.parametrize("size", [1000, BIG])
    def test_while_it_is_read(
        self, store: RecordingStore, root: Path, tmp_path: Path, meddle: Meddle, size: int
    ) -> None:
        """The reader holds the file that was replaced: it takes the new one, whole, and none of the old one."""
        (root / "last.ckpt").write_bytes(b"1" * size)
        left = [b"2", b"3"]
        meddle(lambda _: replace(root / "last.ckpt", left.pop(0) * size) if left else None)
        saved = save(root, store, live=True, cache=FileCache(), clock=later())
        assert saved.warnings == ()
        assert (left, (root / "last.ckpt").read_bytes()) == ([], b"3" * size)
        restore(store, saved.manifest_id, tmp_path / "out")
        assert (tmp_path / "out" / "last.ckpt").read_bytes() == b"3" * size

    def test_a_snapshot_in_between_has_both_files(self, store: RecordingStore, root: Path, tmp_path: Path) -> None:
        """And the bytes are stored once, whatever the file was called when."""
        cache = FileCache()
        replace(root / "last.ckpt", os.urandom(BIG))
        save(root, store, cache=cache, live=True, clock=later())
        new = os.urandom(BIG)
        (root / "last.ckpt.tmp").write_bytes(new)
        between = save(root, store, cache=cache, live=True, clock=later())
        assert_restores(store, between, root, tmp_path)
        os.replace(root / "last.ckpt.tmp", root / "last.ckpt")
        after = save(root, store, cache=cache, live=True, clock=later())
        assert (root / "last.ckpt").read_bytes() == new
        assert_restores(store, after, root, tmp_path)
        assert between.stored > BIG
        assert after.stored < 10_000

    def test_a_longer_file_put_in_place_is_not_taken_for_one_that_grew(
        self, store: RecordingStore, root: Path, tmp_path: Path
    ) -> None:
        """Even where its end begins as the old one's did."""
        cache, tail = FileCache(), os.urandom(BIG)
        replace(root / "f", os.urandom(BIG) + tail)
        save(root, store, cache=cache, live=True, clock=later())
        replace(root / "f", os.urandom(BIG) + tail + b"more")
        saved = save(root, store, cache=cache, live=True, clock=later())
        assert_restores(store, saved, root, tmp_path)

    def test_a_folder_renamed_into_place(self, store: RecordingStore, root: Path, tmp_path: Path) -> None:
        """As the Trainer's `tmp-checkpoint-10` and Lightning's folders are."""
        cache = FileCache()
        (root / "tmp-checkpoint-10").mkdir()
        for name in ("model.safetensors", "optimizer.pt"):
            (root / "tmp-checkpoint-10" / name).write_bytes(os.urandom(BIG))
        (root / "tmp-checkpoint-10" / "trainer_state.json").write_text("{}")
        save(root, store, cache=cache, live=True, clock=later())
        (root / "tmp-checkpoint-10").rename(root / "checkpoint-10")
        saved = save(root, store, cache=cache, live=True, clock=later())
        assert_restores(store, saved, root, tmp_path)
        assert saved.stored < 10_000
        assert set(cache.records) == {b"", b"checkpoint-10"}


class TestAppended:
    def test_an_event_file_is_read_from_where_it_ended(
        self, store: RecordingStore, root: Path, tmp_path: Path, offsets: list[int]
    ) -> None:
        """Each record of TensorBoard's is appended and flushed; the last snapshot reads it whole once more."""
        cache = FileCache()
        with open(root / "events.out.tfevents.1.host", "wb") as events:
            events.write(os.urandom(2 * BIG))
            events.flush()
            saved = save(root, store, cache=cache, live=True, clock=later())
            for _ in range(5):
                offsets.clear()
                events.write(os.urandom(5000))
                events.flush()
                saved = save(root, store, cache=cache, live=True, clock=later())
                assert min(offsets) > 2 * BIG - DEFAULT.maximum
                assert_restores(store, saved, root, tmp_path)
        offsets.clear()
        last = save(root, store, cache=cache, clock=later())
        assert min(offsets) == 0
        assert last.manifest_id == saved.manifest_id
        offsets.clear()
        save(root, store, cache=cache, clock=later())
        assert offsets == []

    def test_a_small_file_that_grows_large(self, store: RecordingStore, root: Path, tmp_path: Path) -> None:
        cache = FileCache()
        for _ in range(6):
            with open(root / "log", "ab") as log:
                log.write(os.urandom(120_000))
            saved = save(root, store, cache=cache, live=True, clock=later())
            assert_restores(store, saved, root, tmp_path)


class TestFoldersThatComeAndGo:
    def test_made_anew_with_files_that_look_the_same(self, store: RecordingStore, root: Path, tmp_path: Path) -> None:
        """Name, size, mode and time of change of the content are as before; the bytes are not."""
        cache = FileCache()
        for data in (b"one", b"two"):
            shutil.rmtree(root / "out", ignore_errors=True)
            (root / "out").mkdir()
            (root / "out" / "f").write_bytes(data)
            os.utime(root / "out" / "f", (5, 5))
            os.utime(root / "out", (5, 5))
            saved = save(root, store, cache=cache, live=True, clock=later())
            assert_restores(store, saved, root, tmp_path)

    @pytest.mark.parametrize("gone", ["folder", "files"])
    def test_removed_between_listing_and_reading(
        self, store: RecordingStore, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
    ) -> None:
        for name in ("a", "b", "c"):
            (root / name).mkdir()
            for number in range(3):
                (root / name / f"{number}").write_bytes(name.encode() * (300_000 if number else 10))
        real = scanning._scan  # pyright: ignore[reportPrivateUsage]

        def scan(listing: scanning.Listing) -> list[bytes]:
            folders = real(listing)
            if listing.path == b"b":
                shutil.rmtree(root / "b")
                if gone == "files":
                    (root / "b").mkdir()
                    (root / "b" / "0").write_bytes(b"another file of that name")
            return folders

        monkeypatch.setattr(scanning, "_scan", scan)
        saved = save(root, store, live=True, clock=later())
        monkeypatch.undo()
        assert saved.warnings == ()
        restore(store, saved.manifest_id, tmp_path / "at once")
        found = {path: entry.what for path, entry in described(tmp_path / "at once").items()}
        assert {path for path in found if path.startswith(b"b/")} == set()
        assert found[b"c/2"] == b"c" * 300_000
        assert_restores(store, save(root, store, clock=later()), root, tmp_path)


class TestVeryManyFiles:
    FILES = 4000

    @pytest.fixture
    def many(self, root: Path) -> Path:
        for number in range(self.FILES):
            (root / f"sample-{number:06}.json").write_bytes(b"%d" % number)
        return root

    @pytest.mark.parametrize("how", ["changed", "added", "removed"])
    def test_one_that_changes_costs_its_part_of_the_folder(
        self,
        store: RecordingStore,
        many: Path,
        tmp_path: Path,
        files_read: list[bytes],
        monkeypatch: pytest.MonkeyPatch,
        how: str,
    ) -> None:
        cache = FileCache()
        save(many, store, cache=cache, live=True, clock=later())
        before = cache.records[b""].parts
        assert len(before) > 6
        decoded: list[int] = []
        monkeypatch.setattr(capture, "unpack_row", lambda row: decoded.append(1) or scanning.unpack_row(row))
        files_read.clear()
        match how:
            case "changed":
                (many / "sample-002000.json").write_bytes(b"changed")
            case "added":
                (many / "sample-002000-new.json").write_bytes(b"new")
            case _:
                (many / "sample-002000.json").unlink()
        saved = save(many, store, cache=cache, live=True, clock=later())
        assert (len(files_read), len(decoded)) == ((0, 0) if how == "removed" else (1, 1))
        after = cache.records[b""].parts
        assert len({id(part) for part in after} - {id(part) for part in before}) == 1
        assert saved.stored < 100_000
        assert_restores(store, saved, many, tmp_path)

    def test_a_border_that_goes_changes_two_parts(
        self, store: RecordingStore, many: Path, files_read: list[bytes]
    ) -> None:
        cache = FileCache()
        save(many, store, cache=cache, live=True, clock=later())
        before = cache.records[b""].parts
        last, _ = list(scanning.parse_rows(before[2].rows))[-1]
        files_read.clear()
        os.unlink(bytes(many) + b"/" + last)
        save(many, store, cache=cache, live=True, clock=later())
        assert files_read == []
        assert len(cache.records[b""].parts) == len(before) - 1


@pytest.mark.parametrize("average", [64, 512, 1024])
def test_the_content_id_does_not_depend_on_the_chunker(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, average: int
) -> None:
    """The constants may change with the next version: what a folder holds stays comparable."""
    (root / "f").write_bytes(bytes(range(256)) * 20_000)
    (root / "g").write_bytes(b"small")
    usual = save(root, RecordingStore())
    parameters = ChunkerParameters(minimum=average * 512, average=average * 1024, maximum=average * 4096)
    monkeypatch.setattr(capture, "DEFAULT", parameters)
    store = RecordingStore()
    other = save(root, store)
    assert other.content_id == usual.content_id
    assert (other.manifest_id == usual.manifest_id) == (parameters == DEFAULT)
    assert_restores(store, other, root, tmp_path)
