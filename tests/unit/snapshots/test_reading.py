"""Files that are written to while they are read: whole and unchanged, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dstack.snapshots import capture, reading
from dstack.snapshots.capture import save
from dstack.snapshots.chunking import DEFAULT
from dstack.snapshots.reading import FileReader
from dstack.snapshots.restore import restore
from dstack.snapshots.scanning import stat_row, unpack_row
from dstack.snapshots.statcache import FileCache, SavedSnapshot
from tests.support.ports import FakeClock
from tests.support.snapshots import Meddle
from tests.support.stores import RecordingStore, later

BIG = 5 * 1024 * 1024


def content(store: RecordingStore, saved: SavedSnapshot, tmp_path: Path, name: str = "f") -> bytes:
    target = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
    restore(store, saved.manifest_id, target)
    return (target / name).read_bytes()


def rewrite(path: Path, data: bytes, second: int) -> None:
    """Change the file in place; `second` makes the time differ however fast the test runs."""
    path.write_bytes(data)
    os.utime(path, (second, second))


@pytest.mark.parametrize("size", [1000, BIG])
def test_a_file_that_changes_under_the_reader_is_read_again(
    store: RecordingStore, root: Path, tmp_path: Path, meddle: Meddle, size: int
) -> None:
    (root / "f").write_bytes(b"0" * size)

    def change(call: int) -> None:
        if call < 3:
            rewrite(root / "f", b"%d" % (call + 1) * size, call)

    pauses = meddle(change)
    saved = save(root, store, clock=later())
    assert saved.warnings == ()
    assert content(store, saved, tmp_path) == b"3" * size
    assert pauses == list(reading.PAUSES[1:4])


@pytest.mark.parametrize("size", [1000, BIG])
def test_a_file_that_never_rests_is_left_out_and_named(
    store: RecordingStore, root: Path, meddle: Meddle, size: int
) -> None:
    (root / "f").write_bytes(b"0" * size)
    meddle(lambda call: rewrite(root / "f", os.urandom(size), call))
    saved = save(root, store, clock=later())
    assert saved.warnings == ("f: kept changing while it was read, not saved",)
    assert saved.files == 0


def test_a_file_that_never_rests_stays_as_it_was_saved_before(
    store: RecordingStore, root: Path, tmp_path: Path, meddle: Meddle
) -> None:
    (root / "f").write_bytes(b"good")
    cache = FileCache()
    save(root, store, cache=cache, clock=later())
    rewrite(root / "f", b"next", 1)
    restless = True
    meddle(lambda call: rewrite(root / "f", b"%04d" % call, call) if restless else None)
    saved = save(root, store, cache=cache, clock=later())
    assert saved.warnings == ("f: kept changing while it was read, an older state of it is kept",)
    assert content(store, saved, tmp_path) == b"good"
    restless = False
    again = save(root, store, cache=cache, clock=later())
    assert again.warnings == ()
    assert content(store, again, tmp_path) == (root / "f").read_bytes()


@pytest.mark.parametrize("size", [1000, BIG])
def test_a_file_that_shrinks_under_the_reader_is_read_again(
    store: RecordingStore, root: Path, tmp_path: Path, meddle: Meddle, size: int
) -> None:
    (root / "f").write_bytes(b"0" * size)
    meddle(lambda call: rewrite(root / "f", b"short", 1) if call == 0 else None)
    saved = save(root, store, clock=later())
    assert content(store, saved, tmp_path) == b"short"


def test_a_small_file_that_becomes_large_meanwhile_is_taken_whole(
    store: RecordingStore, root: Path, tmp_path: Path, meddle: Meddle
) -> None:
    (root / "f").write_bytes(b"0")
    big = os.urandom(BIG)
    meddle(lambda call: rewrite(root / "f", big, 1) if call == 0 else None)
    saved = save(root, store, clock=later())
    assert content(store, saved, tmp_path) == big


@pytest.mark.parametrize("size", [1000, BIG])
@pytest.mark.parametrize("instead", ["nothing", "link", "pipe", "folder"])
def test_a_file_that_is_gone_when_it_is_opened_is_as_if_never_there(
    store: RecordingStore, root: Path, monkeypatch: pytest.MonkeyPatch, size: int, instead: str
) -> None:
    (root / "f").write_bytes(b"0" * size)
    (root / "kept").write_bytes(b"kept")
    real_open = os.open

    def swap(path: object, flags: int, *rest: object, **keywords: object) -> int:
        if path == b"f" and (root / "f").is_file():
            (root / "f").unlink()
            match instead:
                case "link":
                    (root / "f").symlink_to("kept")
                case "pipe":
                    os.mkfifo(root / "f")
                case "folder":
                    (root / "f").mkdir()
                case _:
                    pass
        return real_open(path, flags, *rest, **keywords)  # pyright: ignore[reportCallIssue, reportArgumentType]

    monkeypatch.setattr(os, "open", swap)
    saved = save(root, store, clock=later())
    assert (saved.files, saved.warnings) == (1, ())


def test_a_file_of_this_very_tick_is_read_after_the_tick(root: Path) -> None:
    """Else a second change within the tick would show the same time, and a torn file would count as whole."""
    (root / "f").write_bytes(b"x")
    pauses: list[float] = []
    reader = FileReader(DEFAULT, lambda *_: None, live=False, clock=FakeClock(), pause=pauses.append)
    listed = unpack_row(stat_row(os.stat(root / "f")))
    folder = os.open(root, os.O_RDONLY)
    try:
        reader.read_small(folder, b"f", listed)
        assert pauses == [reading.TICK] * 3  # the clock stands still behind the file: waiting has an end
        pauses.clear()
        settled = FileReader(DEFAULT, lambda *_: None, live=False, clock=later(), pause=pauses.append)
        settled.read_small(folder, b"f", listed)
        assert pauses == []
    finally:
        os.close(folder)


class TestGrownFiles:
    """Live snapshots may take a longer file for one that was appended to; the last one may not."""

    def test_only_the_new_part_is_read(
        self, store: RecordingStore, root: Path, tmp_path: Path, offsets: list[int]
    ) -> None:
        cache, data = FileCache(), os.urandom(BIG)
        (root / "f").write_bytes(data)
        saved = save(root, store, cache=cache, live=True, clock=later())
        for _ in range(3):
            offsets.clear()
            data += os.urandom(700_000)
            with open(root / "f", "ab") as file:
                file.write(data[-700_000:])
            saved = save(root, store, cache=cache, live=True, clock=later())
            assert min(offsets) >= len(data) - 700_000 - DEFAULT.maximum
            assert content(store, saved, tmp_path) == data
        offsets.clear()
        last = save(root, store, cache=cache, clock=later())
        assert min(offsets) == 0
        assert last.content_id == saved.content_id
        assert last.manifest_id == save(root, RecordingStore()).manifest_id

    def test_a_file_rewritten_longer_is_right_in_the_last_snapshot(
        self, store: RecordingStore, root: Path, tmp_path: Path
    ) -> None:
        cache, data = FileCache(), os.urandom(BIG)
        (root / "f").write_bytes(data)
        save(root, store, cache=cache, live=True, clock=later())
        with open(root / "f", "r+b") as file:
            file.write(b"changed at the start")
            file.seek(0, os.SEEK_END)
            file.write(b"and longer")
        live = save(root, store, cache=cache, live=True, clock=later())
        assert content(store, live, tmp_path) == data + b"and longer"
        live = save(root, store, cache=cache, live=True, clock=later())
        last = save(root, store, cache=cache, clock=later())
        assert content(store, last, tmp_path) == (root / "f").read_bytes()

    def test_a_file_whose_end_changed_too_is_read_whole_at_once(
        self, store: RecordingStore, root: Path, tmp_path: Path
    ) -> None:
        cache = FileCache()
        (root / "f").write_bytes(os.urandom(BIG))
        save(root, store, cache=cache, live=True, clock=later())
        with open(root / "f", "r+b") as file:
            file.write(os.urandom(BIG + 1000))
        saved = save(root, store, cache=cache, live=True, clock=later())
        assert content(store, saved, tmp_path) == (root / "f").read_bytes()

    @pytest.mark.parametrize("how", ["replaced", "shorter"])
    def test_another_or_a_shorter_file_is_read_whole(
        self, store: RecordingStore, root: Path, tmp_path: Path, how: str
    ) -> None:
        cache = FileCache()
        (root / "f").write_bytes(os.urandom(BIG))
        save(root, store, cache=cache, live=True, clock=later())
        if how == "replaced":
            (tmp_path / "new").write_bytes(os.urandom(BIG + 1000))
            (tmp_path / "new").rename(root / "f")
        else:
            os.truncate(root / "f", BIG // 2)
        saved = save(root, store, cache=cache, live=True, clock=later())
        assert content(store, saved, tmp_path) == (root / "f").read_bytes()

    def test_the_file_may_grow_while_a_live_snapshot_reads_it(
        self, store: RecordingStore, root: Path, tmp_path: Path, meddle: Meddle
    ) -> None:
        data = os.urandom(BIG)
        (root / "f").write_bytes(data)

        def grow(call: int) -> None:
            with open(root / "f", "ab") as file:
                file.write(b"more")

        pauses = meddle(grow)
        cache = FileCache()
        saved = save(root, store, cache=cache, live=True, clock=later())
        assert content(store, saved, tmp_path) == data
        assert pauses == []
        assert cache.records[b""].parts[0].assumed == (b"f",)


def test_a_file_of_more_chunks_than_a_list_can_hold_is_named(
    store: RecordingStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_CHUNKS", 2)
    (root / "f").write_bytes(os.urandom(BIG))
    (warning,) = save(root, store).warnings
    assert "larger than a snapshot can hold" in warning


def test_reading_goes_on_when_many_large_files_wait(
    store: RecordingStore, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "LARGE_AT_ONCE", 2)
    for number in range(30):
        folder = root / f"{number % 4}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number}").write_bytes(os.urandom(300_000))
    before = len(os.listdir("/proc/self/fd"))
    saved = save(root, store)
    assert len(os.listdir("/proc/self/fd")) == before
    assert content(store, saved, tmp_path, "3/7") == (root / "3/7").read_bytes()
