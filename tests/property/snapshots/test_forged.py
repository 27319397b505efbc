"""Forged snapshots: whatever objects somebody puts into a store, a restore writes into its target and nowhere else, and
it comes to an end (F31)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dstack.snapshots.chunking import DEFAULT, digest
from dstack.snapshots.errors import BadManifest, SnapshotError
from dstack.snapshots.listing import entries
from dstack.snapshots.manifests import (
    DIRECTORY,
    LINKS,
    ROOT,
    AnyEntry,
    Directory,
    DirectoryEntry,
    FileEntry,
    Root,
    SymlinkEntry,
)
from dstack.snapshots.materialise import Materialiser
from dstack.snapshots.restore import restore
from dstack.snapshots.scanning import MAX_DEPTH
from dstack.snapshots.writer import PackWriter
from tests.property.snapshots.test_trees import scratch
from tests.support.stores import RecordingStore
from tests.support.trees import described

CONTENT = b"written by the restore"
HOSTILE = st.sampled_from(
    [
        b"..", b".", b"", b"/", b"/etc", b"../canary", b"../../canary/kept", b"a/b", b"a/../../canary/kept", b"a\0b",
        b"//proc/self/root", b"C:\\canary", b"..\\canary", b"%2e%2e", b"%2e%2e%2fcanary", b"~", b"#", b"x" * 256,
        b"..\xc0\xaf", b". ", b" ..",
    ]
)  # fmt: skip
PLAIN = st.sampled_from([b"a", b"A", b"b", b"canary", b"kept", b"sub", b"link", "é".encode(), b"e\xcc\x81"])
NAMES = st.one_of(PLAIN, PLAIN, PLAIN, HOSTILE)
TARGETS = st.sampled_from(
    [b"..", b"../canary", b"../../canary", b"../canary/kept", b"CANARY", b"CANARY/kept", b"/", b"a", b".", b"a/../.."]
)
"""CANARY stands for the folder's whole path."""
NUMBERS = st.one_of(st.integers(-(2**62), 2**62), st.sampled_from([0, 1, 0o777, 0o7777, 2**40, 2**61]))
SIZES = st.one_of(st.just(len(CONTENT)), st.just(len(CONTENT)), NUMBERS)

NODES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.tuples(st.just("file"), SIZES, st.lists(SIZES, max_size=3), st.lists(SIZES, max_size=4)),
        st.tuples(st.just("link"), TARGETS),
    ),
    lambda inner: st.tuples(st.just("folder"), st.lists(st.tuples(NAMES, inner), max_size=4), st.booleans()),
    max_leaves=8,
)
TREES = st.lists(st.tuples(NAMES, NODES), max_size=4)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(b"/".join)
GROUPS = st.lists(st.lists(PATHS, max_size=3), max_size=2)
"""Groups of paths that are said to be one file."""


class Forger:
    """Stores objects as they are given, whatever rule they break."""

    def __init__(self, store: RecordingStore, canary: Path) -> None:
        self._canary = bytes(canary)
        self._store = store
        self._writer = PackWriter(store)
        self._writer.add(digest(CONTENT), CONTENT)

    def snapshot(self, tree: Sequence[tuple[bytes, Any]], groups: list[list[bytes]], count: int, size: int) -> bytes:
        links = self.put(LINKS, groups) if groups else b""
        top = self.folder([self.entry(*item) for item in tree], paged=False)
        root = Root(top, b"c" * 32, 0o755, 0, count, size, DEFAULT, links)
        made = self.put(ROOT, root)
        self.finish()
        return made

    def entry(self, name: bytes, node: Any) -> AnyEntry:
        match node:
            case ("file", size, lengths, holes):
                chunks = b"".join(digest(CONTENT) + (length % 2**32).to_bytes(4) for length in lengths)
                return FileEntry(name, 0o644, 0, size, digest(CONTENT), chunks, tuple(holes))
            case ("link", target):
                return SymlinkEntry(name, 0o777, 0, target.replace(b"CANARY", self._canary))
            case ("folder", below, paged):
                tree_id = self.folder([self.entry(*item) for item in below], paged=paged)
                return DirectoryEntry(name, 0o700, 0, tree_id, b"c" * 32, len(below), 1 << 40)
            case _:
                raise AssertionError(node)

    def folder(self, found: Sequence[AnyEntry], *, paged: bool) -> bytes:
        made = self.put(DIRECTORY, Directory((), tuple(found)))
        return self.put(DIRECTORY, Directory((made,), ())) if paged else made

    def finish(self) -> None:
        self._writer.finish()

    def put(self, magic: bytes, value: object) -> bytes:
        data = magic + msgspec.msgpack.encode(value)
        self._writer.add_object(digest(data), data)
        return digest(data)


def in_order(tree: Sequence[tuple[bytes, Any]]) -> list[tuple[bytes, Any]]:
    """Sorted as a reader wants it, and each name once: what is left to refuse is what the names say."""
    kept = {
        name: ("folder", in_order(node[1]), node[2]) if node[0] == "folder" else node for name, node in sorted(tree)
    }
    return sorted(kept.items())


def unpack(store: RecordingStore, manifest_id: bytes, target: Path) -> object:
    return Materialiser(store).unpack(manifest_id, target)


@settings(max_examples=80, deadline=None)
@given(
    trees=st.lists(TREES, min_size=1, max_size=2), groups=GROUPS, ordered=st.booleans(),
    count=st.one_of(st.just(100), NUMBERS), size=st.one_of(st.just(1 << 40), NUMBERS),
    put_back=st.sampled_from([restore, unpack]),
)  # fmt: skip
@example(  # a link, and then, by the second snapshot, a file through it
    trees=[
        [(b"sub", ("link", b"../canary"))],
        [(b"sub", ("folder", [(b"kept", ("file", len(CONTENT), [], []))], False))],
    ],
    groups=[], ordered=True, count=9, size=99, put_back=restore,
)  # fmt: skip
@example(  # hard links to what stands outside, and over it
    trees=[[(b"a", ("file", len(CONTENT), [], [])), (b"link", ("link", b"CANARY/kept"))]],
    groups=[[b"../canary/kept", b"a"], [b"a", b"link", b"link/kept"]],
    ordered=True, count=9, size=99, put_back=restore,
)  # fmt: skip
@example(  # lengths that do not add up, beyond what a file may be
    trees=[[(b"a", ("file", 2**61, [2**32 - 1] * 3, [0, 2**61]))]],
    groups=[], ordered=True, count=9, size=2**62, put_back=restore,
)  # fmt: skip
def test_nothing_outside_the_target_changes(
    trees: list[list[tuple[bytes, Any]]],
    groups: list[list[bytes]],
    ordered: bool,
    count: int,
    size: int,
    put_back: Callable[[RecordingStore, bytes, Path], object],
) -> None:
    with scratch() as folder:
        canary, target = folder / "canary", folder / "target"
        canary.mkdir()
        (canary / "kept").write_bytes(b"untouched")
        (canary / "kept").chmod(0o600)
        (canary / "empty").mkdir(mode=0o500)
        outside = described(folder)
        store = RecordingStore()
        for tree in trees:
            tree = in_order(tree) if ordered else tree
            manifest_id = Forger(store, canary).snapshot(tree, groups, count, size)
            try:
                put_back(store, manifest_id, target)
                list(entries(store, manifest_id))
            except SnapshotError:
                pass  # refused, which is as good as done
        found = described(folder)
        assert {path: what for path, what in found.items() if not path.startswith(b"target")} == outside
        # A hard link to a file outside would change that file with the next write.
        inodes = {path.stat().st_ino for path in canary.rglob("*")}
        assert not [path for path in target.rglob("*") if os.lstat(path).st_ino in inodes]


@pytest.fixture
def store() -> RecordingStore:
    return RecordingStore()


def nested(forger: Forger, depth: int, width: int, inner: Sequence[AnyEntry] = ()) -> bytes:
    """A folder of `width` folders, each the same one of `width` folders, and so on: `width ** depth` of them."""
    below = forger.folder(list(inner), paged=False)
    for _ in range(depth):
        same = [DirectoryEntry(b"%03d" % number, 0o755, 0, below, b"c" * 32, 0, 0) for number in range(width)]
        below = forger.folder(same, paged=False)
    return below


class TestBombs:
    """Small objects that ask for more than anybody has."""

    @pytest.fixture(autouse=True)
    def few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("dstack.snapshots.scanning.FOLDERS", 1000)

    def forged(
        self, store: RecordingStore, top: Callable[[Forger], bytes], files: int = 0, size: int = 1 << 40
    ) -> bytes:
        forger = Forger(store, Path("/"))
        made = forger.put(ROOT, Root(top(forger), b"c" * 32, 0o755, 0, files, size, DEFAULT))
        forger.finish()
        return made

    @pytest.mark.parametrize("put_back", [restore, unpack])
    def test_folders_without_a_file(self, store: RecordingStore, tmp_path: Path, put_back: Any) -> None:
        """2^400 of them, in 400 objects."""
        manifest_id = self.forged(store, lambda forger: nested(forger, 400, 2))
        with pytest.raises(BadManifest, match="than its snapshot says"):
            put_back(store, manifest_id, tmp_path / "target")
        assert sum(1 for _ in (tmp_path / "target").rglob("*")) <= 1000
        with pytest.raises(BadManifest, match="than its snapshot says"):
            list(entries(store, manifest_id))

    def test_as_many_as_so_many_files_may_need_are_fine(self, store: RecordingStore, tmp_path: Path) -> None:
        manifest_id = self.forged(store, lambda forger: nested(forger, 2, 31))
        restore(store, manifest_id, tmp_path / "target")
        assert sum(1 for _ in (tmp_path / "target").rglob("*")) == 31 + 31 * 31

    def test_deeper_than_anybody_goes(self, store: RecordingStore, tmp_path: Path) -> None:
        manifest_id = self.forged(store, lambda forger: nested(forger, MAX_DEPTH + 1, 1))
        with pytest.raises(BadManifest, match=f"more than {MAX_DEPTH} folders within each other"):
            restore(store, manifest_id, tmp_path / "target")

    def test_one_page_many_times(self, store: RecordingStore, tmp_path: Path) -> None:
        """Some 300 KB that would be lists of 160 thousand million names."""

        def top(forger: Forger) -> bytes:
            links = [SymlinkEntry(b"%04d" % number, 0o777, 0, b"x") for number in range(4000)]
            page = forger.folder(links, paged=False)
            pages = forger.put(DIRECTORY, Directory((page,) * 200_000, ()))
            same = [DirectoryEntry(b"%03d" % number, 0o755, 0, pages, b"c" * 32, 0, 0) for number in range(200)]
            return forger.folder(same, paged=False)

        manifest_id = self.forged(store, top, files=1000)
        with pytest.raises(BadManifest, match="than its snapshot says"):
            restore(store, manifest_id, tmp_path / "target")

    def test_one_chunk_many_times(self, store: RecordingStore, tmp_path: Path) -> None:
        often = (digest(CONTENT) + len(CONTENT).to_bytes(4)) * 20_000
        size = len(CONTENT) * 20_000
        found = [FileEntry(b"%03d" % n, 0o644, 0, size, digest(b"?"), often) for n in range(10)]
        manifest_id = self.forged(store, lambda forger: forger.folder(found, paged=False), files=10, size=size * 2)
        with pytest.raises(BadManifest, match="than its snapshot says"):
            restore(store, manifest_id, tmp_path / "target")
        assert sum(path.stat().st_size for path in (tmp_path / "target").rglob("*")) <= size * 2
