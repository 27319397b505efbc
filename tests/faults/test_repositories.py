"""Repositories that are too large or broken (F37), with real processes: the exact tree, or a refusal before the run.

`tests/integration/cli/test_code.py` runs from every state that a repository can be in.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

from tests.faults.home import Home
from tests.support.repositories import committed, git, project

MUCH = 600 << 20


def test_much_that_is_not_tracked_is_not_shipped_unasked(home: Home) -> None:
    """Half a gigabyte beside the code is named with what to write down; it is not even read."""
    git(home.repo, "init", "-q")
    home.write("workflows: [{name: w, provider: bash, commands: [ls]}]\n")
    (home.repo / "data").mkdir()
    for number, size in enumerate((MUCH, 5000, 4000)):
        with open(home.repo / "data" / f"{number}.bin", "wb") as file:
            file.truncate(size)
    done = home.types("run", "w", code=2)
    assert "600MiB" in done.stderr
    assert done.stderr.index("data/0.bin") < done.stderr.index("data/1.bin") < done.stderr.index("data/2.bin")
    assert "name what a run does not need in .dstackignore" in done.stderr
    assert not (home.folder / "server" / "store").exists()
    assert home.runs() == []
    (home.repo / ".dstackignore").write_text("data\n.dstackignore\n")
    assert home.types("run", "w").stdout == ""


def moved(home: Home) -> None:
    shutil.rmtree(home.repo / ".git")
    (home.repo / ".git").write_text("gitdir: /nowhere\n")


BROKEN: dict[str, tuple[Callable[[Home], object], int, str]] = {
    "an index that is none": (lambda home: (home.repo / ".git" / "index").write_text("x"), 2, "git ls-files failed"),
    "a lock left behind": (lambda home: (home.repo / ".git" / "index.lock").touch(), 0, ""),
    "no objects": (lambda home: shutil.rmtree(home.repo / ".git" / "objects" / "pack"), 0, ""),
    "a HEAD that is none": (lambda home: (home.repo / ".git" / "HEAD").write_text("x"), 0, "all files are shipped"),
    "a .git that leads nowhere": (moved, 0, "all files are shipped"),
}


def test_a_git_file_that_is_empty_in_a_folder_without_git(home: Home) -> None:
    """uv's cache has such files; a project that keeps it within itself is shipped all the same."""
    project(home.repo)
    (home.repo / "cache").mkdir()
    (home.repo / "cache" / ".git").touch()
    (home.repo / "cache" / "kept.txt").write_text("x")
    done = home.types("run", "show")
    assert "git cannot read cache (fatal: invalid gitfile format" in done.stderr
    names = {bytes.fromhex(path).decode() for path in json.loads(done.stdout)}
    assert {"train.py", "cache/kept.txt"} <= names


def test_a_git_folder_that_is_broken(home: Home) -> None:
    """What git can still tell counts; where it can tell nothing, everything goes, with a warning."""
    shutil.rmtree(home.repo)
    home.repo.mkdir()
    committed(home.repo)
    git(home.repo, "gc", "-q")
    (home.repo / "out.log").write_text("ignored\n")
    whole = home.root / "whole"
    shutil.copytree(home.repo, whole)
    for kind, (spoil, code, words) in BROKEN.items():
        shutil.rmtree(home.repo)
        shutil.copytree(whole, home.repo)
        spoil(home)
        done = home.types("run", "show", code=code)
        assert words in done.stderr, kind
        if code == 0:
            names = {bytes.fromhex(path).decode() for path in json.loads(done.stdout)}
            assert names >= {"train.py", "lib/net.py", ".gitignore", ".dstack/workflows.yaml"}, kind
            assert ("out.log" in names) == bool(words), kind
