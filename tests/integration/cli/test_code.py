"""A job finds the code exactly as it is on the submitter's disk, in whatever state the repository is."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cli.conftest import TIMEOUT, Home
from tests.support.describe import describe
from tests.support.repositories import WORKFLOWS, State, commit, committed, project, put
from tests.support.repository_files import STATES


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder with a short path: a socket is made in some."""
    with tempfile.TemporaryDirectory(prefix="dstack-code-") as made:
        folder = Path(made).resolve() / "project"
        folder.mkdir()
        yield folder


@pytest.mark.parametrize("state", STATES)
def test_the_code_of_a_job_is_the_tree_on_disk(shared_home: Home, folder: Path, state: str) -> None:
    made = STATES[state](folder)
    _check(shared_home, folder / made.root, made)


def _check(home: Home, root: Path, state: State) -> None:
    done = home.run("run", "show", cwd=root)
    found = json.loads(done.stdout)
    expected = state.goes(root)
    assert {bytes.fromhex(path) for path in found} == {bytes.fromhex(path) for path in expected}
    assert found == expected
    warnings = [line for line in done.stderr.splitlines(keepends=True) if line.startswith("warning: ")]
    assert len(warnings) == len(state.says), done.stderr
    for words in state.says:
        assert any(words in line for line in warnings), done.stderr


ODD_FOLDERS = (b" a b ", b"-rf", b"new\nline", "🦆".encode(), b"caf\xe9", b"50%25", b"#x?y", b"x" * 200)


@pytest.mark.parametrize("name", ODD_FOLDERS)
def test_the_folder_itself_may_have_any_name(shared_home: Home, folder: Path, name: bytes) -> None:
    root = os.fsencode(folder.parent) + b"/" + name
    project(folder)
    os.rename(folder, root)
    done = shared_home.run("run", "show", cwd=root)
    assert json.loads(done.stdout) == describe(root)
    assert shared_home.run("runs", cwd=root).stdout.count("show") == 1


def test_two_submissions_at_once_from_one_folder(shared_home: Home, folder: Path) -> None:
    """Twice: with nothing known of the tree, and with one file changed."""
    committed(folder)
    for number in range(2):
        put(folder, "train.py", f"print({number})\n")
        started = [shared_home.start("run", "show", cwd=folder) for _ in range(4)]
        found = [process.communicate(timeout=TIMEOUT) for process in started]
        assert [process.returncode for process in started] == [0] * 4, found
        for out, _ in found:
            assert json.loads(out) == describe(bytes(folder))


def test_changes_are_recorded_for_people(shared_home: Home, folder: Path) -> None:
    committed(folder)
    put(folder, "train.py", "print(2)\n")
    name = shared_home.run("run", "-d", "show", cwd=folder).stdout.strip()
    done = shared_home.run("runs", name, "--diff")
    assert done.stdout.endswith("@@ -1 +1 @@\n-print(1)\n+print(2)\n")
    commit(folder)
    name = shared_home.run("run", "-d", "show", cwd=folder).stdout.strip()
    assert shared_home.run("runs", name, "--diff").stdout == ""


def test_a_job_that_misses_a_file_which_is_here(shared_home: Home, folder: Path) -> None:
    committed(folder)
    put(folder, WORKFLOWS, "workflows:\n  - {name: show, provider: bash, commands: [cat data/in.csv]}\n")
    put(folder, "data/in.csv", "1,2\n")
    done = shared_home.run("run", "show", cwd=folder, check=1)
    hint = "hint: data/in.csv is here, but was not shipped: .gitignore, line 2, has git ignore it (`/data/`)"
    assert f"\n  {hint}" in done.stderr
    name = shared_home.json("runs", "-a")[0]["name"]
    assert f"\n{hint}" in shared_home.run("explain", name, cwd=folder).stdout
    elsewhere = folder.parent / "other"
    elsewhere.mkdir()
    committed(elsewhere)
    put(elsewhere, "data/in.csv", "1,2\n")
    told = [shared_home.run("resume", name, cwd=root, check=1).stderr for root in (elsewhere, folder)]
    assert [f"\n  {hint}" in text for text in told] == [False, True], "of another repository nothing is said"
    put(
        folder,
        WORKFLOWS,
        "workflows:\n  - {name: show, provider: bash, commands: [cat data/in.csv], code: {include: [data/in.csv]}}\n",
    )
    assert shared_home.run("run", "show", cwd=folder).stdout == "1,2\n"
