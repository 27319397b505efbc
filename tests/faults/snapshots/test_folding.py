"""File systems that take `Model` and `model` for one name: nothing that is restored takes the place of another file."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dstack.runner.cloning import copy_bytes, put_tree
from dstack.snapshots.capture import save
from dstack.snapshots.errors import RestoreFailed
from dstack.snapshots.materialise import Materialiser
from dstack.snapshots.restore import restore
from tests.support.stores import RecordingStore

Restore = Callable[[RecordingStore, bytes, Path], object]


@pytest.fixture(scope="module")
def folding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system that folds case: NTFS without regard to it (Debian's ntfs-3g; .ci/run installs it)."""
    if os.geteuid() != 0 or not shutil.which("mkntfs") or not shutil.which("lowntfs-3g"):
        pytest.skip("a file system that folds case needs root, and mkntfs and lowntfs-3g of ntfs-3g")
    folder = tmp_path_factory.mktemp("folding")
    image, mounted = folder / "image", folder / "mounted"
    with open(image, "wb") as file:
        file.truncate(32 << 20)
    mounted.mkdir()
    subprocess.run(["mkntfs", "-F", "-q", "-f", image], check=True, capture_output=True)
    subprocess.run(["lowntfs-3g", image, mounted, "-o", "ignore_case"], check=True, capture_output=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", mounted], check=True)


def with_materialiser(store: RecordingStore, manifest_id: bytes, target: Path) -> object:
    return Materialiser(store).unpack(manifest_id, target)


def with_the_cache_of_inputs(store: RecordingStore, manifest_id: bytes, target: Path) -> object:
    """Which lies on another file system."""
    with tempfile.TemporaryDirectory() as cache:
        restore(store, manifest_id, Path(cache))
        return put_tree(Path(cache), target, copy_bytes)


@pytest.mark.parametrize(
    "put_back", [restore, with_materialiser, with_the_cache_of_inputs], ids=["restore", "materialiser", "cache"]
)
@pytest.mark.parametrize(
    ("first", "second"),
    [("Model", "model"), ("sub/Model.pt", "sub/model.pt"), ("Data/x", "data/y"), ("É", "é"), ("Link ->", "link")],
)
def test_the_second_of_two_names_is_refused(
    folding: Path, tmp_path: Path, first: str, second: str, put_back: Restore
) -> None:
    for name in (first, second):
        path = tmp_path / "saved" / name.removesuffix(" ->")
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(" ->"):
            path.symlink_to("nowhere")
        else:
            path.write_text(name)
    store = RecordingStore()
    saved = save(tmp_path / "saved", store)
    target = folding / f"{tmp_path.name}-{put_back.__name__}"
    with pytest.raises(RestoreFailed, match="the file system there takes both names for one") as told:
        put_back(store, saved.manifest_id, target)
    both = [Path(first.removesuffix(" ->")), Path(second)]
    parts = next((a, b) for a, b in zip(both[0].parts, both[1].parts, strict=True) if a != b)
    assert all(part in str(told.value) for part in parts)
    if "->" not in first and first != "Data/x":
        assert (target / first).read_text() == first, "the file that was written first is whole"


def test_what_was_there_before_is_replaced(folding: Path, tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "Model").write_text("new")
    target = folding / tmp_path.name
    target.mkdir()
    (target / "MODEL").write_text("old")
    store = RecordingStore()
    restore(store, save(tmp_path / "saved", store).manifest_id, target)
    assert (target / "Model").read_text() == "new"


def test_forms_of_unicode_that_are_two_names_here_stay_two(tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, "é") for form in ("NFC", "NFD")] + ["Model", "model"]
    (tmp_path / "saved").mkdir()
    for name in names:
        (tmp_path / "saved" / name).write_text(name)
    store = RecordingStore()
    manifest_id = save(tmp_path / "saved", store).manifest_id
    for _ in range(2):
        restore(store, manifest_id, tmp_path / "target")
        assert {path.name: path.read_text() for path in (tmp_path / "target").iterdir()} == {
            name: name for name in names
        }
