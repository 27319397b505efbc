"""Putting snapshots back: what may be in the way, and what a forged snapshot may not do."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import msgspec
import pytest

from dstack.snapshots import twins
from dstack.snapshots.capture import save
from dstack.snapshots.chunking import DEFAULT, digest
from dstack.snapshots.errors import BadManifest, CorruptChunk, MissingChunk, RestoreFailed, RestoreStopped
from dstack.snapshots.listing import entries
from dstack.snapshots.manifests import (
    DIRECTORY,
    ROOT,
    AnyEntry,
    Directory,
    DirectoryEntry,
    Encoded,
    FileEntry,
    Root,
    SymlinkEntry,
    encode_links,
    encode_root,
)
from dstack.snapshots.materialise import Materialiser
from dstack.snapshots.restore import Restored, restore
from dstack.snapshots.writer import PackWriter
from tests.support.objects import encode_directory
from tests.support.snapshots import sample_package
from tests.support.stores import RecordingStore
from tests.support.trees import described


@pytest.fixture
def root(root: Path) -> Path:
    return sample_package(root)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "some" / "target"


def test_everything_comes_back(store: RecordingStore, root: Path, target: Path) -> None:
    saved = save(root, store)
    assert restore(store, saved.manifest_id, target) == Restored(saved.files, saved.size)
    assert described(target) == described(root)


def test_files_in_the_way_are_replaced_and_others_stay(store: RecordingStore, root: Path, target: Path) -> None:
    saved = save(root, store)
    (target / "pkg").mkdir(parents=True)
    (target / "pkg").chmod(0o500)
    (target / "main.py").write_bytes(b"older")
    (target / "main.py").chmod(0o400)
    (target / "other").write_bytes(b"stays")
    restore(store, saved.manifest_id, target)
    restore(store, saved.manifest_id, target)
    assert (target / "other").read_bytes() == b"stays"
    (target / "other").unlink()
    assert described(target) == described(root)


def test_a_link_in_the_way_is_not_written_through(store: RecordingStore, root: Path, target: Path) -> None:
    saved = save(root, store)
    outside = target.parent / "outside"
    outside.mkdir(parents=True)
    (outside / "file").write_bytes(b"untouched")
    target.mkdir()
    (target / "main.py").symlink_to(outside / "file")
    restore(store, saved.manifest_id, target)
    assert (outside / "file").read_bytes() == b"untouched"
    assert not (target / "main.py").is_symlink()


@pytest.mark.parametrize("way", ["link", "file"])
def test_what_stands_where_a_folder_goes_is_named(store: RecordingStore, root: Path, target: Path, way: str) -> None:
    saved = save(root, store)
    outside = target.parent / "outside"
    outside.mkdir(parents=True)
    target.mkdir()
    (target / "pkg").symlink_to(outside) if way == "link" else (target / "pkg").write_bytes(b"")
    with pytest.raises(RestoreFailed, match=r"pkg is in the way: .* move it away"):
        restore(store, saved.manifest_id, target)
    assert os.listdir(outside) == []


def test_a_folder_where_a_file_goes_is_named(store: RecordingStore, root: Path, target: Path) -> None:
    saved = save(root, store)
    (target / "pkg" / "tool").mkdir(parents=True)
    with pytest.raises(RestoreFailed, match=r"/pkg/tool is in the way: the snapshot has a file there; move it away"):
        restore(store, saved.manifest_id, target)


def test_a_full_disk_is_named(store: RecordingStore, root: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = save(root, store)

    def refuse(fd: int, data: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(RestoreFailed, match=r"cannot write .*/main\.py: No space left on device"):
        restore(store, saved.manifest_id, target)
    assert len(os.listdir("/proc/self/fd")) == before


def test_rights_of_another_owner_are_not_given(store: RecordingStore, root: Path, target: Path) -> None:
    (root / "main.py").chmod(0o6755)
    saved = save(root, store)
    restore(store, saved.manifest_id, target)
    assert (target / "main.py").stat().st_mode & 0o7777 == 0o755
    assert {e.mode for e in entries(store, saved.manifest_id) if e.path == b"main.py"} == {0o6755}


def test_it_stops_between_batches_where_it_is_told_to(
    store: RecordingStore, root: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one that is cancelled still writes is bounded."""
    monkeypatch.setattr("dstack.snapshots.batches.BATCH_BYTES", 1 << 20)
    saved = save(root, store)
    for unpack in (partial(restore, store), Materialiser(store).unpack):
        asked: list[bool] = []
        with pytest.raises(RestoreStopped, match="was stopped"):
            unpack(saved.manifest_id, target, stopped=lambda asked=asked: asked.append(True) or len(asked) > 2)
        assert sum(path.stat().st_size for path in target.rglob("*")) < 8 << 20


class TestPaths:
    def test_only_what_was_asked_for(self, store: RecordingStore, root: Path, target: Path) -> None:
        saved = save(root, store)
        assert restore(store, saved.manifest_id, target, paths=[b"pkg/tool", b"main.py"]) == Restored(2, 18)
        assert sorted(described(target)) == [b"main.py", b"pkg", b"pkg/tool"]

    def test_a_folder_stands_for_what_is_in_it(self, store: RecordingStore, root: Path, target: Path) -> None:
        saved = save(root, store)
        restore(store, saved.manifest_id, target, paths=[b"pkg"])
        assert described(target / "pkg") == described(root / "pkg")
        assert os.listdir(target) == ["pkg"]

    @pytest.mark.parametrize("path", [b"nothing", b"pkg/nothing", b"main.py/x", b"../x", b"/etc", b""])
    def test_a_path_that_is_not_there_is_named(
        self, store: RecordingStore, root: Path, target: Path, path: bytes
    ) -> None:
        saved = save(root, store)
        with pytest.raises(RestoreFailed, match="not in the snapshot: "):
            restore(store, saved.manifest_id, target, paths=[b"main.py", path])

    def test_only_those_chunks_are_read(self, store: RecordingStore, root: Path, target: Path) -> None:
        saved = save(root, store)
        for chunk_id in list(store.catalog.chunks):
            if store.catalog.chunks[chunk_id].raw_length > 100_000:
                store.catalog.forget([chunk_id])
        restore(store, saved.manifest_id, target, paths=[b"pkg/tool"])
        with pytest.raises(MissingChunk):
            restore(store, saved.manifest_id, target)


FILE = FileEntry(b"file", 0o644, 0, 3, digest(b"abc"))


def forge(
    store: RecordingStore, *found: AnyEntry, links: list[list[bytes]] | None = None, size: int = 1 << 40
) -> bytes:
    """A snapshot with these entries at its top, however wrong they are. One chunk exists: `abc`."""
    top = Encoded(b"", DIRECTORY + msgspec.msgpack.encode(Directory((), found)))
    objects = [Encoded(digest(top.data), top.data), *([encode_links(links)] if links else [])]
    link_id = objects[1].id if links else b""
    objects.append(encode_root(Root(objects[0].id, b"c" * 32, 0o755, 0, len(found), size, DEFAULT, link_id)))
    with PackWriter(store) as writer:
        writer.add(digest(b"abc"), b"abc")
        for made in objects:
            writer.add_object(*made)
        writer.finish()
    return objects[-1].id


class TestForged:
    def test_the_forger_can_make_a_good_one(self, store: RecordingStore, target: Path) -> None:
        restore(store, forge(store, FILE), target)
        assert (target / "file").read_bytes() == b"abc"

    @pytest.mark.parametrize(
        "name", [b"..", b".", b"", b"/etc/x", b"a/b", b"../x", b"a\0b", b"x" * 256], ids=lambda name: repr(name)[:12]
    )
    @pytest.mark.parametrize("kind", ["file", "link", "folder"])
    def test_names_that_lead_out(self, store: RecordingStore, target: Path, name: bytes, kind: str) -> None:
        inner = encode_directory([FILE])[-1]
        with PackWriter(store) as writer:
            writer.add_object(*inner)
            writer.finish()
        entry: AnyEntry = {
            "file": FileEntry(name, 0o644, 0, 3, digest(b"abc")),
            "link": SymlinkEntry(name, 0o777, 0, b"target"),
            "folder": DirectoryEntry(name, 0o755, 0, inner.id, b"c" * 32, 1, 3),
        }[kind]
        with pytest.raises(BadManifest, match="is no name of a file"):
            restore(store, forge(store, entry), target)
        assert not any(target.rglob("*"))

    def test_a_link_and_then_a_folder_of_that_name(self, store: RecordingStore, target: Path) -> None:
        inner = encode_directory([FILE])[-1]
        with PackWriter(store) as writer:
            writer.add_object(*inner)
            writer.finish()
        link = SymlinkEntry(b"sub", 0o777, 0, bytes(target.parent))
        folder = DirectoryEntry(b"sub", 0o755, 0, inner.id, b"c" * 32, 1, 3)
        with pytest.raises(BadManifest, match="names are not in order"):
            restore(store, forge(store, link, folder), target)
        assert not (target.parent / "file").exists()

    @pytest.mark.parametrize(
        "entry",
        [
            FileEntry(b"f", 0o644, 0, 3, b"short"),
            FileEntry(b"f", 0o644, 0, 99, digest(b"abc"), digest(b"abc") + b"\0\0\0\3"),
            FileEntry(b"f", 0o644, 0, 3, digest(b"abc"), b"odd length"),
            FileEntry(b"f", 0o644, 0, 3, digest(b"abc"), b"", (0,)),
            FileEntry(b"f", 0o644, 0, 3, digest(b"abc"), b"", (2, 5)),
            FileEntry(b"f", 0o644, 0, 3, digest(b"abc"), b"", (1, 1, 0, 1)),
            SymlinkEntry(b"f", 0o777, 0, b""),
            SymlinkEntry(b"f", 0o777, 0, b"a\0b"),
            DirectoryEntry(b"f", 0o755, 0, b"short", b"c" * 32, 0, 0),
        ],
        ids=repr,
    )
    def test_entries_that_break_a_rule(self, store: RecordingStore, target: Path, entry: AnyEntry) -> None:
        with pytest.raises(BadManifest):
            restore(store, forge(store, entry), target)

    def test_a_size_that_is_not_the_chunk_s(self, store: RecordingStore, target: Path) -> None:
        one = FileEntry(b"f", 0o644, 0, 99, digest(b"abc"))
        two = FileEntry(b"f", 0o644, 0, 9, digest(b"?"), (digest(b"abc") + b"\0\0\0\2") + digest(b"abc") + b"\0\0\0\7")
        for entry, said in ((one, "is not as long as it says"), (two, "two lengths")):
            with pytest.raises(BadManifest, match=said):
                restore(store, forge(store, entry), target)
            with pytest.raises(BadManifest, match=said):
                Materialiser(store).unpack(forge(store, entry), target.parent / "other")

    def test_a_size_that_is_not_that_of_the_chunk_when_it_comes_again(
        self, store: RecordingStore, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dstack.snapshots.batches.BATCH_STEPS", 1)
        for fillers in (0, 9):
            others = [FileEntry(b"m%d" % number, 0o644, 0, 0, digest(b"")) for number in range(fillers)]
            again = FileEntry(b"z", 0o644, 0, 1 << 40, digest(b"abc"))
            with pytest.raises(BadManifest, match="is not as long as it says"):
                restore(store, forge(store, FILE, *others, again, size=1 << 50), target)

    def test_more_than_it_says(self, store: RecordingStore, target: Path) -> None:
        """Folders that stand in each other many times, and a chunk that comes a million times: small, and endless."""
        below = encode_directory([FILE])[-1]
        with PackWriter(store) as writer:
            for _ in range(30):
                writer.add_object(*below)
                twice = [DirectoryEntry(name, 0o755, 0, below.id, b"c" * 32, 1, 3) for name in (b"a", b"b")]
                below = encode_directory(twice)[-1]
            writer.add_object(*below)
            writer.finish()
        often = (digest(b"abc") + b"\0\0\0\3") * 1_000_000
        for entry in (
            DirectoryEntry(b"d", 0o755, 0, below.id, b"c" * 32, 1, 3),
            FileEntry(b"f", 0o644, 0, 3_000_000, digest(b"?"), often),
        ):
            manifest_id = forge(store, entry, size=3)
            for read in (
                lambda forged: restore(store, forged, target),
                lambda forged: list(entries(store, forged)),
                lambda forged: Materialiser(store).unpack(forged, target.parent / "other"),
            ):
                with pytest.raises(BadManifest, match="more is below it than its snapshot says"):
                    read(manifest_id)

    def test_a_hole_where_there_is_data(self, store: RecordingStore, target: Path) -> None:
        restore(store, forge(store, FileEntry(b"f", 0o644, 0, 3, digest(b"abc"), b"", (0, 3))), target)
        assert (target / "f").read_bytes() == b"abc"

    def test_a_hard_link_to_another_content(self, store: RecordingStore, target: Path) -> None:
        empty = FileEntry(b"g", 0o644, 0, 0, digest(b""))
        restore(store, forge(store, FILE, empty, links=[[b"file", b"g", b"../../x", b"/etc/passwd"]]), target)
        assert ((target / "file").read_bytes(), (target / "g").read_bytes()) == (b"abc", b"")

    def test_an_object_in_the_place_of_another(self, store: RecordingStore, target: Path) -> None:
        manifest_id = forge(store, FILE)
        with pytest.raises(BadManifest, match="it begins with"):
            restore(store, store.root(manifest_id).tree_id, target)
        with pytest.raises(BadManifest, match="it begins with"):
            restore(store, digest(b"abc"), target)

    @pytest.mark.parametrize(
        ("data", "said"),
        [
            (ROOT[:7] + b"\x02" + b"\xc0", "a newer version of dstack wrote it"),
            (ROOT + b"\xc0", "is not understood"),
            (ROOT, "is not understood"),
            (ROOT + msgspec.msgpack.encode(Root(b"x", b"", 0, 0, 0, 0, DEFAULT)), "not 32 bytes"),
        ],
    )
    def test_a_root_that_is_none(self, store: RecordingStore, target: Path, data: bytes, said: str) -> None:
        with PackWriter(store) as writer:
            writer.add_object(digest(data), data)
            writer.finish()
        with pytest.raises(BadManifest, match=said):
            restore(store, digest(data), target)


class TestMaterialiser:
    @pytest.fixture
    def small(self, root: Path) -> Path:
        (root / "pkg" / "big").unlink()
        return root

    def test_the_second_time_asks_the_store_nothing(self, store: RecordingStore, small: Path, tmp_path: Path) -> None:
        saved = save(small, store)
        materialiser = Materialiser(store)
        assert materialiser.unpack(saved.manifest_id, tmp_path / "1") == Restored(saved.files, saved.size)
        store.log.clear()
        (tmp_path / "3").mkdir()
        for name in ("2", "3", "new/4"):
            assert materialiser.unpack(saved.manifest_id, tmp_path / name) == Restored(saved.files, saved.size)
            assert described(tmp_path / name) == described(small)
        assert store.log == []

    def test_copies_do_not_share_bytes(self, store: RecordingStore, small: Path, tmp_path: Path) -> None:
        saved = save(small, store)
        materialiser = Materialiser(store)
        materialiser.unpack(saved.manifest_id, tmp_path / "1")
        (tmp_path / "1" / "main.py").write_bytes(b"changed by a job")
        materialiser.unpack(saved.manifest_id, tmp_path / "2")
        assert (tmp_path / "2" / "main.py").read_bytes() == b"print()\n"

    def test_large_ones_and_full_targets_are_restored(self, store: RecordingStore, root: Path, tmp_path: Path) -> None:
        saved = save(root, store)
        materialiser = Materialiser(store)
        for _ in range(2):
            materialiser.unpack(saved.manifest_id, tmp_path / "out")
            assert described(tmp_path / "out") == described(root)

    def test_the_least_used_are_let_go(
        self, store: RecordingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dstack.snapshots.materialise.KEPT_BYTES", 5000)
        ids: list[bytes] = []
        for number in range(3):
            (tmp_path / f"{number}").mkdir()
            (tmp_path / f"{number}" / "f").write_bytes(b"%d" % number * 1000)
            ids.append(save(tmp_path / f"{number}", store).manifest_id)
        materialiser = Materialiser(store)
        asked: list[int] = []
        for number, which in enumerate((0, 1, 0, 2, 0, 1)):
            store.log.clear()
            materialiser.unpack(ids[which], tmp_path / f"out-{number}")
            asked.append(len(store.log) > 0)
        assert asked == [True, True, False, True, False, True]


@pytest.mark.parametrize("times", [1, 2])
def test_a_damaged_chunk_is_never_written_as_if_whole(
    store: RecordingStore, root: Path, target: Path, times: int
) -> None:
    saved = save(root, store)
    (big,) = (entry for entry in entries(store, saved.manifest_id) if entry.path == b"pkg/big")
    chunk_id = max(store.catalog.chunks, key=lambda found: store.catalog.chunks[found].raw_length)
    location = store.catalog.chunks[chunk_id]
    for info in store.blobs.list(""):
        store.memory.damage(info.key, location.offset + 1000)
    for _ in range(times):
        with pytest.raises(CorruptChunk, match=chunk_id.hex()):
            restore(store, saved.manifest_id, target)
    assert not (target / "pkg" / "big").exists() or (target / "pkg" / "big").stat().st_size < big.size


def test_names_in_the_way_cost_the_same_among_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name is folded once when it was written and once when it is in the way, however many there are."""
    for number in range(300):
        (tmp_path / "saved").mkdir(exist_ok=True)
        (tmp_path / "saved" / f"{number}").write_text("x")
    store = RecordingStore()
    manifest_id = save(tmp_path / "saved", store).manifest_id
    restore(store, manifest_id, tmp_path / "target")
    folded: list[bytes] = []
    fold = twins._folded  # pyright: ignore[reportPrivateUsage] - what is counted
    monkeypatch.setattr(twins, "_folded", lambda name: folded.append(name) or fold(name))
    restore(store, manifest_id, tmp_path / "target")
    assert len(folded) <= 2 * 300
