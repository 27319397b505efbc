"""Which files are shipped, when they are looked at again, and what is asked before."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from dstack.client import code, tree
from dstack.client.code import CodeCache, Listing, ship_code
from dstack.client.repository import RepositoryError
from dstack.client.sent import CodeRef

OLD = 1_600_000_000 * 10**9
MINUTE = 60 * 10**9


class Ship:
    """Ships a folder, with a clock that the test turns and a save that counts."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.saved: list[list[str]] = []
        self.asked: list[tuple[int, int]] = []
        self.agrees = True
        # `time_ns` is all that is asked; changes are as old as the files' own times say.
        self.now = max(os.lstat(path).st_ctime_ns for path in [root, *root.rglob("*")]) + MINUTE
        monkeypatch.setattr(tree, "time", self)

    def time_ns(self) -> int:
        return self.now

    def __call__(self) -> CodeRef:
        root = str(self.root / "project")
        cache = CodeCache(str(self.root / "cache"), root, "")
        return ship_code(Listing(root), cache, None, self._save, self._confirm).code

    def _save(self, root: str, files: Mapping[str, os.stat_result], cache: str) -> tuple[CodeRef, Sequence[str]]:
        self.saved.append(list(files))
        return {"manifest_id": f"{len(self.saved):064x}", "content_id": "0", "files": len(files), "size": 0}, ()

    def _confirm(self, files: int, size: int, largest: Sequence[tuple[int, str]]) -> bool:
        self.asked.append((files, size))
        return self.agrees


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "sub").mkdir(parents=True)
    (root / "a.py").write_text("1")
    (root / "sub" / "b.py").write_text("2")
    return root


def test_without_git_everything_but_caches_is_shipped(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (".venv/bin/python", "__pycache__/x.pyc", "sub/__pycache__/y.pyc", ".hidden", "data.bin"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("x")
    (project / "link").symlink_to("sub")
    os.mkfifo(project / "pipe")
    (project / ".dstackignore").write_text("*.bin\n")
    ship = Ship(tmp_path, monkeypatch)
    ship()
    assert ship.saved == [[".dstackignore", ".hidden", "a.py", "link", "sub/b.py"]]


def test_what_did_not_change_is_not_saved_again(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ship = Ship(tmp_path, monkeypatch)
    assert ship() == ship()
    assert len(ship.saved) == 1
    (project / "a.py").write_text("3")
    ship.now += MINUTE
    ship()
    (project / "sub" / "b.py").chmod(0o755)
    ship.now += MINUTE
    ship()
    (project / "sub" / "b.py").unlink()
    ship.now += MINUTE
    ship()
    assert len(ship.saved) == 4


def test_what_changed_a_moment_ago_is_looked_at_once_more(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ship = Ship(tmp_path, monkeypatch)
    ship.now += 1 - MINUTE
    ship()
    ship()
    assert len(ship.saved) == 2
    ship.now += MINUTE
    ship()
    ship()
    assert len(ship.saved) == 3


def test_a_file_that_changes_during_the_save_is_not_taken_for_saved(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Meanwhile(Ship):
        def _save(self, root: str, files: Mapping[str, os.stat_result], cache: str) -> tuple[CodeRef, Sequence[str]]:
            (project / "a.py").write_text("changed" * len(self.saved))
            return super()._save(root, files, cache)

    ship = Meanwhile(tmp_path, monkeypatch)
    ship()
    ship.now += MINUTE
    ship()
    assert len(ship.saved) == 2


def test_much_code_is_asked_about_once(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(project / "big", "wb") as file:
        file.truncate(code.LARGE_SIZE + 1)
    ship = Ship(tmp_path, monkeypatch)
    ship.agrees = False
    with pytest.raises(RepositoryError, match="not shipped: 3 files"):
        ship()
    assert ship.saved == []
    ship.agrees = True
    ship()
    (project / "a.py").write_text("3")
    ship.now += MINUTE
    ship()
    assert ship.asked == [(3, code.LARGE_SIZE + 3)] * 2
    assert len(ship.saved) == 2


def test_a_damaged_cache_is_no_cache(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ship = Ship(tmp_path, monkeypatch)
    ship()
    [path] = (tmp_path / "cache").glob("*.json")
    for content in ("", "[1]", '{"digest": 1}', "\0"):
        path.write_text(content)
        ship()
    assert len(ship.saved) == 5
