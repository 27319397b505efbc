"""The hint that a file which a job missed is here."""

from __future__ import annotations

from pathlib import Path

import pytest

from dstack.client.missing import missing_files, names_missed
from tests.support.repositories import WORKFLOWS, commit, committed, project, put

INCLUDE = "To ship it, add `code: {{include: [{}]}}` to .dstack/workflows.yaml"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path.resolve() / "project"
    folder.mkdir()
    return folder


def hints(root: Path, line: str, workflow: str = "show") -> list[str]:
    return missing_files(str(root), workflow, names_missed([line]))


def test_the_line_of_the_ignore_file_is_named(root: Path) -> None:
    committed(root)
    put(root, "data/train.csv")
    why = "data/train.csv is here, but was not shipped: .gitignore, line 2, has git ignore it (`/data/`). "
    for line in (
        "FileNotFoundError: [Errno 2] No such file or directory: 'data/train.csv'",
        "cat: ./data/train.csv: No such file or directory",
        "cat: /somewhere/runner/attempts/0a1b/work/data/train.csv: No such file or directory",
    ):
        assert hints(root, line) == [why + INCLUDE.format("data/train.csv")]


def test_a_module_and_a_folder(root: Path) -> None:
    committed(root)
    put(root, ".gitignore", "/private\ndata/\n")
    put(root, "private/tools.py")
    put(root, "data/x/y")
    assert hints(root, "ModuleNotFoundError: No module named 'private'")[0].startswith("private is here, ")
    assert hints(root, "ModuleNotFoundError: No module named 'private.tools'")[0].startswith(
        "private/tools.py is here, "
    )
    assert hints(root, "ls: cannot access 'data/x/': No such file or directory")[0].startswith("data/x is here, ")


def test_the_folder_where_the_job_starts_is_thought_of(root: Path) -> None:
    committed(root)
    put(root, WORKFLOWS, "workflows:\n  - {name: show, provider: bash, working_dir: 'lib'}\n")
    put(root, "lib/out.log")
    [hint] = hints(root, "cat: out.log: No such file or directory")
    assert hint.startswith("lib/out.log is here, but was not shipped: .gitignore, line 1, has git ignore it (`*.log`)")


def test_other_reasons_are_told_apart(root: Path) -> None:
    committed(root)
    put(root, ".dstackignore", "secret.env\n")
    put(root, "secret.env")
    put(root, ".venv/bin/activate")
    elsewhere = root.parent / "elsewhere"
    put(elsewhere, "x.csv")
    (root / "shared").symlink_to(elsewhere)
    line = "cat: {}: No such file or directory"
    [ignored] = hints(root, line.format("secret.env"))
    assert ignored.endswith("a .dstackignore or `code: exclude` names it. Take it out there")
    [environment] = hints(root, line.format(".venv/bin/activate"))
    assert "virtual environments, caches and empty folders stay here" in environment
    [linked] = hints(root, line.format("shared/x.csv"))
    assert linked.endswith("it lies behind the link shared, and links go as links")


def test_without_git_too(root: Path) -> None:
    put(project(root), ".dstackignore", "data/\n")
    put(root, "data/x")
    assert len(hints(root, "cat: data/x: No such file or directory")) == 1


@pytest.mark.parametrize(
    "line",
    [
        "cat: train.py: No such file or directory",  # shipped
        "cat: nowhere.csv: No such file or directory",
        "cat: /etc/nowhere: No such file or directory",
        "cat: ../outside: No such file or directory",
        "cat: .git/config: No such file or directory",
        "cat: data/in.csv: No such file or directory",  # brought in
        "cat: \x00: No such file or directory",
        f"cat: {'x' * 5000}: No such file or directory",
    ],
)
def test_what_was_shipped_or_is_not_here_gets_none(root: Path, line: str) -> None:
    committed(root)
    put(root, "data/in.csv")
    put(root.parent, "outside")
    put(root, WORKFLOWS, "workflows:\n  - {name: show, provider: bash, code: {include: [data/in.csv]}}\n")
    commit(root)
    assert hints(root, line) == []
