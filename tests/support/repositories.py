"""Repositories in the states in which people submit from them, and what of each does not go with a run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.support.describe import describe

WORKFLOWS = ".dstack/workflows.yaml"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "4d7a" * 16 + "\nsize 12345\n"
_SETTINGS = {
    "user.name": "n",
    "user.email": "e",
    "protocol.file.allow": "always",
    "init.defaultBranch": "main",
    "advice.detachedHead": "false",
    "gc.auto": "0",
}


class State:
    """What a run leaves behind: paths that stay (all below a folder, too), and words that a person must read."""

    def __init__(self, *stays: str, empty: Iterable[str] = (), says: Iterable[str] = (), root: str = ".") -> None:
        self.stays = stays
        self.empty = frozenset(empty)
        """Folders that go although nothing is in them."""
        self.says = tuple(says)
        self.root = root
        """The folder that holds `.dstack`, within the one that was made."""

    def goes(self, folder: Path) -> dict[str, list[Any]]:
        """What a run must get of `folder`, the root, as `describe` has it."""
        here = describe(os.fsencode(folder))
        stays = [os.fsencode(path) for path in self.stays]
        files = {
            path: what
            for path, what in here.items()
            if what[0] != "folder" and not any(_is_within(bytes.fromhex(path), above) for above in stays)
        }
        folders = {path.hex() for path in _above([*map(bytes.fromhex, files), *(f"{e}/".encode() for e in self.empty)])}
        return files | {path: what for path, what in here.items() if path in folders}


def _is_within(path: bytes, above: bytes) -> bool:
    return path == above or path.startswith(above + b"/")


def _above(paths: Iterable[bytes]) -> set[bytes]:
    """Every folder that leads to one of `paths`."""
    found: set[bytes] = set()
    for path in paths:
        names = path.split(b"/")
        found.update(b"/".join(names[:count]) for count in range(1, len(names)))
    return found


def git(folder: Path, *words: str, check: bool = True) -> str:
    """What git prints. Nothing of this machine's configuration counts."""
    options = [option for name, value in _SETTINGS.items() for option in ("-c", f"{name}={value}")]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    plain |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "GIT_EDITOR": "true"}
    done = subprocess.run(
        ["git", *options, *words], cwd=folder, env=plain, capture_output=True, text=True, errors="replace", check=False
    )
    assert not check or done.returncode == 0, f"git {words}: {done.stdout}{done.stderr}"
    return done.stdout


def commit(folder: Path, message: str = "x") -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", message)


def put(folder: Path, path: str, content: str | bytes = "x\n") -> Path:
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content if isinstance(content, bytes) else content.encode())
    return target


STATES: dict[str, Callable[[Path], State]] = {}
"""By name: makes the files in an empty folder."""


def state(make: Callable[[Path], State]) -> Callable[[Path], State]:
    """Add a state to the table."""
    STATES[make.__name__] = make
    return make


def project(folder: Path) -> Path:
    """Some files and a workflow, without git."""
    put(
        folder,
        WORKFLOWS,
        "workflows:\n  - name: show\n    provider: bash\n    commands: [python3 .dstack/describe.py]\n",
    )
    put(folder, ".dstack/describe.py", Path(__file__).with_name("describe.py").read_bytes())
    put(folder, "train.py", "print(1)\n")
    put(folder, "lib/net.py", "x = 1\n")
    return folder


def committed(folder: Path) -> Path:
    """The same, committed."""
    git(project(folder), "init", "-q")
    put(folder, ".gitignore", "*.log\n/data/\n")
    commit(folder)
    return folder


def _elsewhere(folder: Path, name: str = "elsewhere") -> Path:
    """A committed repository beside `folder`, to clone from."""
    other = folder.parent / f"{folder.name}-{name}"
    other.mkdir()
    return committed(other)


@state
def no_git(folder: Path) -> State:
    project(folder)
    put(folder, "out.log")
    put(folder, ".venv/bin/python")
    put(folder, "lib/__pycache__/net.pyc")
    (folder / "empty" / "deep").mkdir(parents=True)
    return State(".venv", "lib/__pycache__", empty=["empty/deep"])


@state
def no_commit(folder: Path) -> State:
    git(project(folder), "init", "-q")
    put(folder, ".gitignore", "*.log\n")
    put(folder, "out.log")
    git(folder, "add", "train.py")
    return State("out.log")


@state
def changed(folder: Path) -> State:
    """Staged, not staged, new, deleted, deleted only in the index, intent to add."""
    committed(folder)
    put(folder, "train.py", "print(2)\n")
    put(folder, "lib/net.py", "x = 2\n")
    git(folder, "add", "lib/net.py")
    put(folder, "lib/net.py", "x = 3\n")
    put(folder, "new.py")
    put(folder, "gone.py")
    put(folder, "unindexed.py")
    commit(folder)
    (folder / "gone.py").unlink()
    git(folder, "rm", "-q", "--cached", "unindexed.py")
    put(folder, "later.py")
    git(folder, "add", "-N", "later.py")
    put(folder, "out.log")
    put(folder, "data/big.bin")
    put(folder, "kept.log", "tracked although it is ignored\n")
    git(folder, "add", "-f", "kept.log")
    return State("out.log", "data")


@state
def detached_head(folder: Path) -> State:
    committed(folder)
    put(folder, "second.py")
    commit(folder)
    git(folder, "checkout", "-q", "HEAD~1")
    put(folder, "train.py", "print('detached')\n")
    return State()


@state
def unpushed(folder: Path) -> State:
    git(folder.parent, "clone", "-q", str(_elsewhere(folder)), str(folder))
    put(folder, "train.py", "print('mine')\n")
    commit(folder)
    put(folder, "more.py")
    return State()


def _diverged(folder: Path) -> None:
    committed(folder)
    git(folder, "checkout", "-q", "-b", "other")
    put(folder, "train.py", "print('other')\n")
    put(folder, "other.py")
    commit(folder)
    git(folder, "checkout", "-q", "main")
    put(folder, "train.py", "print('main')\n")
    commit(folder)


@state
def rebase_under_way(folder: Path) -> State:
    _diverged(folder)
    git(folder, "rebase", "other", check=False)
    assert "<<<<<<<" in (folder / "train.py").read_text()
    return State()


@state
def merge_under_way(folder: Path) -> State:
    _diverged(folder)
    git(folder, "merge", "other", check=False)
    assert (folder / ".git" / "MERGE_HEAD").exists()
    return State()


@state
def cherry_pick_under_way(folder: Path) -> State:
    _diverged(folder)
    git(folder, "cherry-pick", "other", check=False)
    return State()


@state
def bisect_under_way(folder: Path) -> State:
    committed(folder)
    for number in range(3):
        put(folder, "train.py", f"print({number})\n")
        commit(folder)
    git(folder, "bisect", "start", "HEAD", "HEAD~3")
    return State()


@state
def submodule(folder: Path) -> State:
    inner = _elsewhere(folder)
    git(committed(folder), "submodule", "--quiet", "add", str(inner), "vendor/inner")
    commit(folder)
    put(folder, "vendor/inner/train.py", "changed\n")
    put(folder, "vendor/inner/new.py")
    put(folder, "vendor/inner/out.log")
    return State("vendor/inner/out.log")


@state
def submodule_not_checked_out(folder: Path) -> State:
    inner, outer = _elsewhere(folder, "inner"), _elsewhere(folder, "outer")
    git(outer, "submodule", "--quiet", "add", str(inner), "vendor/inner")
    commit(outer)
    git(folder.parent, "clone", "-q", str(outer), str(folder))
    assert list((folder / "vendor" / "inner").iterdir()) == []
    return State(
        empty=["vendor/inner"], says=["submodules that are not checked out go as empty folders: vendor/inner (git "]
    )


@state
def submodule_without_its_git_folder(folder: Path) -> State:
    inner = _elsewhere(folder)
    git(committed(folder), "submodule", "--quiet", "add", str(inner), "vendor/inner")
    commit(folder)
    (folder / "vendor" / "inner" / ".git").unlink()
    return State()


@state
def submodules_within_submodules(folder: Path) -> State:
    innermost, inner = _elsewhere(folder, "innermost"), _elsewhere(folder, "inner")
    git(inner, "submodule", "--quiet", "add", str(innermost), "deep")
    commit(inner)
    git(committed(folder), "submodule", "--quiet", "add", str(inner), "vendor")
    git(folder, "submodule", "--quiet", "update", "--init", "--recursive")
    put(folder, "vendor/deep/new.py")
    return State()


@state
def nested_repositories(folder: Path) -> State:
    committed(folder)
    nested = committed(folder / "nested")
    put(nested, "out.log")
    put(nested, "new.py")
    fresh = folder / "fresh"
    fresh.mkdir()
    git(fresh, "init", "-q")
    put(fresh, "a.py")
    put(folder, "data/ignored/x")
    return State("nested/out.log", "data")


@state
def nested_repository_without_git_around(folder: Path) -> State:
    project(folder)
    put(committed(folder / "nested"), "out.log")
    return State("nested/out.log")


@state
def linked_worktree(folder: Path) -> State:
    git(_elsewhere(folder), "worktree", "add", "-q", "-b", "side", str(folder))
    assert (folder / ".git").is_file()
    put(folder, "new.py")
    put(folder, "out.log")
    return State("out.log")


@state
def sparse_checkout(folder: Path) -> State:
    committed(folder)
    for name in ("wanted/a.py", "wanted/deep/b.py", "other/c.py", "top.py"):
        put(folder, name)
    commit(folder)
    git(folder, "sparse-checkout", "set", "--cone", "--sparse-index", "wanted", ".dstack", "lib")
    assert not (folder / "other").exists()
    put(folder, "wanted/new.py")
    put(folder, "other/back.py", "put back by hand\n")
    return State()


@state
def sparse_checkout_of_patterns(folder: Path) -> State:
    committed(folder)
    put(folder, "a.txt")
    put(folder, "b.txt")
    commit(folder)
    git(folder, "sparse-checkout", "set", "--no-cone", "/*", "!*.txt")
    assert not (folder / "a.txt").exists()
    put(folder, "b.txt", "there although it should not be\n")
    return State()


@state
def shallow_clone(folder: Path) -> State:
    origin = _elsewhere(folder)
    put(origin, "second.py")
    commit(origin)
    git(folder.parent, "clone", "-q", "--depth=1", f"file://{origin}", str(folder))
    put(folder, "train.py", "print('shallow')\n")
    return State()


@state
def partial_clone(folder: Path) -> State:
    origin = _elsewhere(folder)
    git(origin, "config", "uploadpack.allowFilter", "true")
    git(folder.parent, "clone", "-q", "--filter=blob:none", f"file://{origin}", str(folder))
    put(folder, "train.py", "print('partial')\n")
    return State()
