"""What is recorded of changes that the commit does not have."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from dstack.client import difference
from tests.support.repositories import commit, committed, git, project, put
from tests.support.repository_files import STATES
from tests.support.shipping import Desk


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def diff_of(root: Path) -> str | None:
    return Desk(root.parent / "desk").ship(root).diff


def test_nothing_changed_is_an_empty_text(root: Path) -> None:
    assert diff_of(committed(root)) == ""


def test_without_git_there_is_none(root: Path) -> None:
    assert diff_of(project(root)) is None


def test_changed_deleted_and_new_files(root: Path) -> None:
    committed(root)
    put(root, "staged.py", "a\n")
    git(root, "add", "staged.py")
    put(root, "train.py", "print(2)\n")
    (root / "lib" / "net.py").unlink()
    put(root, "new.sh", "one\ntwo").chmod(0o755)
    put(root, "empty")
    put(root, "empty", b"")
    (root / "link").symlink_to("train.py")
    put(root, "weights.bin", b"\0\1\2")
    put(root, "out.log")
    text = diff_of(root)
    assert text is not None
    assert "--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-print(1)\n+print(2)\n" in text
    assert "deleted file mode 100644" in text
    assert "--- /dev/null\n+++ b/staged.py\n@@ -0,0 +1 @@\n+a\n" in text
    assert (
        "diff --git a/new.sh b/new.sh\nnew file mode 100755\n--- /dev/null\n+++ b/new.sh\n@@ -0,0 +1,2 @@\n+one\n+two\n"
        "\\ No newline at end of file\n"
    ) in text
    assert "diff --git a/empty b/empty\nnew file mode 100644\ndiff --git" in text
    assert "new file mode 120000\n--- /dev/null\n+++ b/link\n@@ -0,0 +1 @@\n+train.py\n" in text
    assert "new file mode 100644\nBinary files /dev/null and b/weights.bin differ\n" in text
    assert "out.log" not in text


def test_it_can_be_applied_to_the_commit(root: Path) -> None:
    committed(root)
    put(root, "train.py", "print(2)\n# grün\n")
    put(root, "lib/new.py", "x\ny\n")
    put(root, "tail", "no end")
    text = diff_of(root)
    assert text is not None
    other = root.parent / "other"
    git(root.parent, "clone", "-q", str(root), str(other))
    (other.parent / "patch").write_text(text, newline="")
    git(other, "apply", str(other.parent / "patch"))
    for path in ("train.py", "lib/new.py", "tail"):
        assert (other / path).read_bytes() == (root / path).read_bytes()


def test_without_a_commit_every_file_is_new_except_what_git_ignores(root: Path) -> None:
    STATES["no_commit"](root)
    put(root, "out.log", "ignored\n")
    text = diff_of(root)
    assert text is not None
    assert "+++ b/train.py\n@@ -0,0 +1 @@\n+print(1)\n" in text
    assert "out.log b/" not in text


def test_what_is_kept_from_the_run_is_kept_from_its_difference(root: Path) -> None:
    committed(root)
    put(root, "secret.env", "KEY=1\n")
    put(root, "lib/old.py", "1\n")
    put(root, ":(glob)*", "1\n")
    commit(root)
    put(root, "secret.env", "KEY=2\n")
    (root / "lib" / "old.py").unlink()
    put(root, ":(glob)*", "2\n")
    put(root, "new.env", "KEY=3\n")
    put(root, "data/big.csv", "brought in\n")
    put(root, ".dstackignore", "*.env\n")
    put(
        root,
        ".dstack/workflows.yaml",
        "code: {include: [data/], exclude: [/lib/]}\nworkflows:\n  - {name: show, provider: bash}\n",
    )
    text = diff_of(root)
    assert text is not None
    assert "KEY" not in text
    assert "old.py" not in text
    assert "brought in" not in text
    assert "+code: {include" in text
    assert "b/:(glob)*\n@@ -1 +1 @@\n-1\n+2\n" in text


def test_only_the_folder_of_the_repository_is_in_it(root: Path) -> None:
    STATES["a_folder_of_a_larger_repository"](root)
    inner = root / "proj [1]" / "model"
    put(root, "other/big.py", "changed outside\n")
    put(inner, "train.py", "changed\n")
    text = diff_of(inner)
    assert text is not None
    assert "changed outside" not in text
    assert "--- a/train.py\n+++ b/train.py\n" in text


def test_changes_within_submodules_are_in_it(root: Path) -> None:
    STATES["submodule"](root)
    text = diff_of(root)
    assert text is not None
    assert "+changed\n" in text
    assert "+++ b/vendor/inner/new.py\n" in text


def test_settings_of_the_person_change_nothing(root: Path) -> None:
    committed(root)
    put(root, ".gitattributes", "*.py diff=odd\n")
    for name, value in {
        "color.ui": "always",
        "diff.external": "false",
        "diff.noprefix": "true",
        "diff.odd.textconv": "tr a-z A-Z <",
        "diff.odd.command": "false",
        "core.quotePath": "false",
    }.items():
        git(root, "config", name, value)
    put(root, "train.py", "print(2)\n")
    text = diff_of(root)
    assert text is not None
    assert "--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-print(1)\n+print(2)\n" in text


def test_odd_bytes_are_shown_as_escapes(root: Path) -> None:
    committed(root)
    put(root, "train.py", b"caf\xe9\n")
    with open(os.fsencode(root) + b"/n\xff", "wb") as file:
        file.write(b"\xfe\n")
    text = diff_of(root)
    assert text is not None
    assert "+caf\\xe9\n" in text
    assert "+++ b/n\\xff\n@@ -0,0 +1 @@\n+\\xfe\n" in text


@pytest.mark.parametrize("tracked", [True, False])
def test_a_large_one_is_cut(root: Path, monkeypatch: pytest.MonkeyPatch, tracked: bool) -> None:
    monkeypatch.setattr(difference, "MOST", 2000)
    committed(root)
    put(root, "train.py" if tracked else "a-new.py", "line\n" * 100_000)
    put(root, "z-new.py", "never seen\n")
    text = diff_of(root)
    assert text is not None
    assert text.endswith("\n… cut here: the difference is larger than 1 MiB\n")
    assert len(text) < 2100
    assert "never seen" not in text


def test_very_many_changed_files_are_counted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(difference, "_MOST_NAMES", 100)
    committed(root)
    for number in range(30):
        put(root, f"file-{number:02}", "a\n")
    commit(root)
    for number in range(30):
        put(root, f"file-{number:02}", "b\n")
    text = diff_of(root)
    assert text is not None
    assert text.count("diff --git") == 12
    assert text.endswith("… and 18 more changed files\n")


def test_a_git_that_fails_costs_no_run(root: Path) -> None:
    committed(root)
    put(root, "train.py", "print(2)\n")
    (root / ".git" / "refs" / "heads" / "main").write_text("0" * 39 + "1\n")
    shipped = Desk(root.parent / "desk").ship(root)
    assert shipped.diff is None
    [note] = shipped.notes
    assert note.startswith("the run does not record what differs from the commit: git diff failed: fatal: ")


def test_a_git_that_is_slow_costs_no_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    committed(root)
    over = threading.Event()
    monkeypatch.setattr(difference, "PATIENCE", 0.0)
    monkeypatch.setattr(difference.Difference, "_find", lambda _: over.wait())
    shipped = Desk(root.parent / "desk").ship(root)
    over.set()
    assert shipped.diff is None
    assert shipped.notes == ["the run does not record what differs from the commit: git diff took longer than 0 s"]
