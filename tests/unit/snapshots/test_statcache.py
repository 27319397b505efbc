"""The answer "nothing changed", which costs the CLI no import and no reading."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dstack.snapshots.capture import save
from dstack.snapshots.statcache import FileCache, unchanged
from tests.support.stores import RecordingStore, later

CHOSEN = [b"a", b"sub/b", b"gone"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/sub").mkdir(parents=True)
    (tmp_path / "root/a").write_bytes(b"a")
    (tmp_path / "root/sub/b").write_bytes(b"b")
    return tmp_path / "root"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "file"


@pytest.mark.parametrize("paths", [None, CHOSEN])
def test_the_same_snapshot_with_its_warnings(root: Path, path: Path, paths: list[bytes] | None) -> None:
    os.mkfifo(root / "pipe")
    saved = save(root, RecordingStore(), paths=paths, cache=FileCache(path), clock=later())
    assert len(saved.warnings) == 1
    assert unchanged(root, FileCache.load(path), paths=paths) == saved._replace(stored=0)


def change(root: Path, what: str) -> None:
    match what:
        case "content":
            (root / "sub/b").write_bytes(b"c")
        case "new file":
            (root / "sub/c").write_bytes(b"")
        case "new folder":
            (root / "new").mkdir()
        case "removed":
            (root / "a").unlink()
        case "mode of the root":
            root.chmod(0o700)
        case "mode of a folder":
            (root / "sub").chmod(0o700)
        case "warning":
            (root / "gone").write_bytes(b"here now")
        case _:
            raise AssertionError(what)


@pytest.mark.parametrize(
    "what",
    ["content", "new file", "new folder", "removed", "mode of the root", "mode of a folder", "warning"],
)
def test_any_change_means_looking(root: Path, path: Path, what: str) -> None:
    root.chmod(0o755)
    save(root, RecordingStore(), cache=FileCache(path), clock=later())
    change(root, what)
    assert unchanged(root, FileCache.load(path)) is None


@pytest.mark.parametrize("what", ["content", "removed", "mode of a folder", "warning"])
def test_any_change_of_chosen_files_means_looking(root: Path, path: Path, what: str) -> None:
    save(root, RecordingStore(), paths=CHOSEN, cache=FileCache(path), clock=later())
    change(root, what)
    assert unchanged(root, FileCache.load(path), paths=CHOSEN) is None


def test_files_beside_the_chosen_ones_do_not_matter(root: Path, path: Path) -> None:
    saved = save(root, RecordingStore(), paths=[b"a", b"sub/b"], cache=FileCache(path), clock=later())
    change(root, "new file")
    change(root, "new folder")
    assert unchanged(root, FileCache.load(path), paths=[b"a", b"sub/b"]) == saved._replace(stored=0)
    assert unchanged(root, FileCache.load(path), paths=[b"a"]) is None


def test_no_cache_or_a_fresh_file_means_looking(root: Path, path: Path) -> None:
    assert unchanged(root, FileCache.load(path)) is None
    save(root, RecordingStore(), cache=FileCache(path), clock=later(1))
    assert unchanged(root, FileCache.load(path)) is None


def test_a_live_assumption_means_looking(root: Path, path: Path) -> None:
    cache = FileCache(path)
    save(root, RecordingStore(), cache=cache, clock=later())
    record = cache.records[b"sub"]
    record = record._replace(parts=(record.parts[0]._replace(assumed=(b"b",)),))
    assert cache.last is not None
    cache.replace({**cache.records, b"sub": record}, cache.last, ())
    assert unchanged(root, FileCache.load(path)) is None


def test_the_cache_comes_back_as_it_was(root: Path, path: Path) -> None:
    os.symlink(b"\xff", bytes(root) + b"/odd-\xfe")
    os.mkfifo(root / "sub" / "pïpe")
    for number in range(600):
        (root / f"many-{number}").write_bytes(b"%d" % number)
    cache = FileCache(path)
    save(root, RecordingStore(), cache=cache, clock=later())
    loaded = FileCache.load(path)
    assert (loaded.last, loaded.records, loaded.warnings) == (cache.last, cache.records, cache.warnings)
    assert loaded.records[b""].pages
    assert os.listdir(path.parent) == [path.name]


def test_an_unchanged_save_does_not_write_the_cache_again(root: Path, path: Path) -> None:
    store = RecordingStore()
    save(root, store, cache=FileCache(path), clock=later())
    before = path.stat()
    save(root, store, cache=FileCache.load(path), clock=later())
    assert path.stat().st_ino == before.st_ino


def test_it_needs_the_standard_library_only() -> None:
    """And importing the package itself imports nothing at all."""
    code = (
        "import sys; before = set(sys.modules); import dstack.snapshots;"
        "print(sorted(set(sys.modules) - before));"
        "import dstack.snapshots.statcache;"
        "print(sorted({name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["['__future__', 'dstack', 'dstack.snapshots']", "['dstack']"]
