"""Whatever the tree and whatever git was told of it: a run gets the files on disk, bit by bit, and no others.

Which they are is asked of git another way than the code does; what is not shipped twice is compared as well.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from unittest import mock

from hypothesis import given, note, settings
from hypothesis import strategies as st

from dstack.client import tree as tree_module
from dstack.client.ignore import IgnoreRules
from tests.property.client.test_ignore import git_ignores
from tests.support.describe import describe
from tests.support.repositories import git, put
from tests.support.shipping import Desk

NAMES = st.sampled_from(
    ["a", "b", "c.log", "data", "é", "e\u0301", "x y", "-q", ".venv", "A", "n\nl", "[a]", "ü" * 100]
)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
PATTERNS = st.lists(
    st.sampled_from(["*.log", "/data", "data/", "a/*", "!a/b", "!c.log", "b", "x*", "**/a", "/a/b/", ".venv", "*"]),
    max_size=3,
)
FILES = st.tuples(st.just("file"), PATHS, st.integers(0, 9), st.sampled_from([0o644, 0o755, 0o600, 0o444]))
LINKS = st.tuples(st.just("link"), PATHS, st.sampled_from(["a", "../b", "/etc/hostname", "data", "nowhere"]))
RULES = st.tuples(st.just("rules"), st.sampled_from([".gitignore", ".dstackignore", "a/.gitignore"]), PATTERNS)
COMMANDS = (
    "add -A", "add -f a", "add -f data .venv", "commit -qm x --allow-empty", "rm -rq --cached b", "stash -q",
    "checkout -q --detach", "reset -q --hard", "add -N a", "update-index --skip-worktree a", "branch other",
    "checkout -q other", "merge -q other", "rebase -q other",
)  # fmt: skip
GIT = st.tuples(st.just("git"), st.sampled_from(COMMANDS))
REMOVALS = st.tuples(st.just("remove"), PATHS)
STEPS = st.lists(st.one_of(FILES, FILES, LINKS, RULES, GIT, GIT, REMOVALS), max_size=12)


@settings(max_examples=60, deadline=None)
@given(with_git=st.booleans(), before=STEPS, after=STEPS)
def test_a_run_gets_the_tree(with_git: bool, before: list[tuple[object, ...]], after: list[tuple[object, ...]]) -> None:
    folder = Path(tempfile.mkdtemp()).resolve()
    try:
        root = folder / "project"
        put(root, ".dstack/workflows.yaml", "workflows: []\n")
        if with_git:
            git(root, "init", "-q")
        desk = Desk(folder)
        # A clock that is ahead of all changes, so that an unchanged tree counts as settled at once.
        with mock.patch.object(tree_module, "time", Ahead):
            for number, steps in enumerate((before, after)):
                for step in steps:
                    apply(root, step)
                shipped = desk.ship(root)
                expected = expected_of(root, with_git)
                note(f"round {number}: {sorted(expected)}")
                assert files_of(desk.unpack(shipped.code, f"copy-{number}")) == expected
                saves = len(desk.saves)
                again = desk.ship(root)
                assert (again.code, again.diff, again.notes) == (shipped.code, shipped.diff, shipped.notes)
                assert len(desk.saves) == saves
    finally:
        shutil.rmtree(folder)


class Ahead:
    @staticmethod
    def time_ns() -> int:
        return 2**62


def apply(root: Path, step: tuple[object, ...]) -> None:
    """One change, if it is possible where things stand."""
    try:
        match step:
            case ("file", str(path), int(seed), int(mode)):
                target = root / path
                if target.is_symlink():
                    target.unlink()
                # Each content has a length of its own: where the file clock is coarse, nothing else may tell.
                put(root, path, bytes([seed]) * (seed * 300 + 1)).chmod(mode)
            case ("link", str(path), str(target)):
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).symlink_to(target)
            case ("rules", str(path), list(lines)):
                put(root, path, "".join(f"{line}\n" for line in lines))
            case ("git", str(words)):
                git(root, *words.split(), check=False)
            case ("remove", str(path)):
                shutil.rmtree(root / path) if (root / path).is_dir() and not (root / path).is_symlink() else (
                    root / path
                ).unlink()
            case _:
                raise AssertionError(step)
    except OSError:
        pass  # something else is in the way


def files_of(root: Path) -> dict[bytes, list[object]]:
    found = {bytes.fromhex(path): what for path, what in describe(os.fsencode(root)).items()}
    return {path: what for path, what in found.items() if what[0] != "folder"}


def expected_of(root: Path, with_git: bool) -> dict[bytes, list[object]]:
    here = files_of(root)
    texts = [os.fsdecode(path) for path in here]
    rules = IgnoreRules((root / ".dstackignore").read_text() if (root / ".dstackignore").is_file() else "")
    kept = set(rules.keep(texts))
    skipped = {text for text in texts if ".venv" in text.split("/")}
    if not with_git:
        return {path: what for path, what in here.items() if os.fsdecode(path) in kept - skipped}
    tracked = set(git(root, "ls-files", "-z").split("\0"))
    ignored = git_ignores(root, [text for text in texts if text not in tracked])
    goes = kept - ((ignored | skipped) - tracked)
    return {path: what for path, what in here.items() if os.fsdecode(path) in goes}
