"""What stands at one path of a snapshot, through links, and never outside of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dstack.snapshots.capture import save
from dstack.snapshots.errors import BadManifest
from dstack.snapshots.lookup import NotThere, locate
from dstack.snapshots.manifests import DirectoryEntry, FileEntry, SymlinkEntry
from dstack.snapshots.restore import restore_folder
from tests.support.stores import RecordingStore
from tests.support.trees import described


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "steps" / "7").mkdir(parents=True)
    (root / "steps" / "7" / "model").write_text("seven")
    (root / "steps" / "7" / "again").hardlink_to(root / "steps" / "7" / "model")
    (root / "last").symlink_to("steps/7")
    (root / "steps" / "7" / "up").symlink_to("../../last/model")
    (root / "out").symlink_to("../elsewhere")
    (root / "absolute").symlink_to("/etc/passwd")
    (root / "circle").symlink_to("circle")
    (root / "gone").symlink_to("nothing")
    return root


@pytest.mark.parametrize(
    ("path", "found", "kind"),
    [
        (b"steps/7/model", b"steps/7/model", FileEntry),
        (b"last/model", b"steps/7/model", FileEntry),
        (b"last/up", b"steps/7/model", FileEntry),
        (b"./steps//7/", b"steps/7", DirectoryEntry),
        (b"last", b"steps/7", DirectoryEntry),
        (b"", b"", type(None)),
    ],
)
def test_what_stands_there(tree: Path, path: bytes, found: bytes, kind: type) -> None:
    store = RecordingStore()
    located = locate(store, save(tree, store).manifest_id, path)
    assert (located.path, type(located.entry)) == (found, kind)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        (b"steps/8", "not there"),
        (b"steps/7/model/x", "no folder"),
        (b"..", "leads out"),
        (b"out/x", "leads out"),
        (b"absolute", "leads out of what was saved, to /etc/passwd"),
        (b"circle", "circle"),
        (b"gone", "leads to nothing, which was not saved"),
    ],
)
def test_what_does_not(tree: Path, path: bytes, why: str) -> None:
    store = RecordingStore()
    manifest_id = save(tree, store).manifest_id
    with pytest.raises(NotThere, match=why):
        locate(store, manifest_id, path)


def test_the_last_link_itself(tree: Path) -> None:
    store = RecordingStore()
    manifest_id = save(tree, store).manifest_id
    assert isinstance(locate(store, manifest_id, b"absolute", follow=False).entry, SymlinkEntry)
    assert locate(store, manifest_id, b"last/model", follow=False).path == b"steps/7/model"


def test_names_that_are_near(tree: Path) -> None:
    store = RecordingStore()
    with pytest.raises(NotThere) as raised:
        locate(store, save(tree, store).manifest_id, b"steps/7/modle")
    assert (raised.value.folder, raised.value.near) == (b"steps/7", (b"again", b"model", b"up"))


def test_only_the_folders_on_the_way_are_read(tree: Path) -> None:
    for number in range(50):
        (tree / f"other-{number}").mkdir()
        (tree / f"other-{number}" / "x").write_text(str(number))
    store = RecordingStore()
    manifest_id = save(tree, store).manifest_id
    del store.log[:]
    locate(store, manifest_id, b"steps/7/model")
    assert store.verbs().count("get") == 5  # the root, and three folders, the first of them in pages


def test_one_folder_of_it_is_restored_with_its_hard_links(tree: Path, tmp_path: Path) -> None:
    store = RecordingStore()
    manifest_id = save(tree, store).manifest_id
    located = locate(store, manifest_id, b"last")
    assert isinstance(located.entry, DirectoryEntry)
    told: list[int] = []
    restored = restore_folder(store, manifest_id, located.path, located.entry, tmp_path / "copy", watch=told.append)
    assert described(tmp_path / "copy") == described(tree / "steps" / "7")
    assert (restored.files, sum(told)) == (3, 5)


def test_a_folder_that_says_too_little_is_refused(tree: Path, tmp_path: Path) -> None:
    store = RecordingStore()
    manifest_id = save(tree, store).manifest_id
    located = locate(store, manifest_id, b"steps/7")
    assert isinstance(located.entry, DirectoryEntry)
    forged = DirectoryEntry(b"7", 0o755, 0, located.entry.tree_id, located.entry.content_id, 1, 1)
    with pytest.raises(BadManifest, match="more is below it"):
        restore_folder(store, manifest_id, located.path, forged, tmp_path / "copy")
