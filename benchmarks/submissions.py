"""Submitting a tree of many files: the first time, unchanged, and with one file changed.

What is measured is `dstack run -d` from its start to its end: the run is accepted, its code is stored and on the disk.
Beside it stand what else takes in a tree of files: git's index, rsync where it is installed, dvc with `--peers`.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from benchmarks.measure import Case, Row, check
from benchmarks.ours import Dstack, plain_environment, write
from benchmarks.peers import Peer

FILES, PER_FOLDER = 10_000, 20
SETTLED = 2.5
"""Seconds after which a file counts as unchanged: its time may be too coarse to tell sooner."""

When = Literal["first", "unchanged", "changed"]
_WORKFLOW = "workflows:\n  - name: nothing\n    provider: bash\n    commands: ['true']\n"
_TITLES: Mapping[When, str] = {
    "first": f"submit a tree of {FILES:,} files, for the first time",
    "unchanged": "the same, unchanged",
    "changed": "the same, with one file changed",
}


def submit_row(dstack: Dstack, peers: Sequence[Peer], scratch: Path, when: When) -> Row:
    plain = plain_environment(scratch / "home")
    cases = [_dstack(dstack, scratch, when), _git(scratch, when, plain)]
    if shutil.which("rsync"):
        cases.append(_rsync(scratch, when, plain))
    cases += [_dvc(peer, scratch, when) for peer in peers if peer.name == "dvc"]
    return Row(f"submit-{FILES}-{when}", _TITLES[when], cases, 3 if when == "first" else 11)


def _dstack(dstack: Dstack, scratch: Path, when: When) -> Case:
    cwd = _tree(scratch / f"dstack-submit-{when}", plain_environment(scratch / "home"))
    write(cwd, {".dstack/workflows.yaml": _WORKFLOW})

    def end(_: Path) -> None:
        """Nothing works on the run any more when the next one is measured."""
        dstack("logs", "-f", str(dstack.newest_run(cwd)["name"]), cwd=cwd)

    def forget() -> None:
        dstack.forget()
        dstack("server", "start", cwd=cwd)

    if when != "first":
        dstack("run", "nothing", cwd=cwd)
    before = {"first": forget, "unchanged": _nothing, "changed": _changes(cwd)}[when]
    return Case("dstack", [dstack.program, "run", "-d", "nothing"], cwd, dstack.environment, before=before, after=end)


def _git(scratch: Path, when: When, plain: Mapping[str, str]) -> Case:
    cwd = _tree(scratch / f"git-submit-{when}", plain)
    change = _changes(cwd)

    def forget() -> None:
        shutil.rmtree(cwd / ".git")
        check(["git", "init", "--quiet"], cwd, plain)

    before = {"first": forget, "unchanged": _nothing, "changed": change}[when]
    check(["git", "add", "--all"], cwd, plain)
    return Case("git add --all", ["git", "add", "--all"], cwd, plain, before=before)


def _rsync(scratch: Path, when: When, plain: Mapping[str, str]) -> Case:
    cwd = _tree(scratch / f"rsync-submit-{when}", plain)
    copy = scratch / f"rsync-copy-{when}"
    command = ["rsync", "--archive", f"{cwd}/", str(copy)]
    check(command, cwd, plain)
    before = {"first": lambda: shutil.rmtree(copy), "unchanged": _nothing, "changed": _changes(cwd)}[when]
    return Case("rsync --archive", command, cwd, plain, before=before)


def _dvc(peer: Peer, scratch: Path, when: When) -> Case:
    cwd = scratch / f"dvc-submit-{when}"
    variables = plain_environment(scratch / "home") | peer.variables
    variables |= {"PATH": f"{peer.environment / 'bin'}:{variables['PATH']}", "DVC_SITE_CACHE_DIR": str(cwd / "site")}
    tree = _tree(cwd / "tree", variables)
    shutil.rmtree(tree / ".git")
    peer.prepare(peer.environment / "bin", cwd, variables)
    command = [peer.environment / "bin" / "dvc", "add", "--quiet", "tree"]

    def forget() -> None:
        for name in (".dvc/cache", "site", "tree.dvc"):
            path = cwd / name
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    check(command, cwd, variables)
    before = {"first": forget, "unchanged": _nothing, "changed": _changes(tree)}[when]
    return Case("dvc", command, cwd, variables, before=before, repeats=3)


def _tree(folder: Path, plain: Mapping[str, str]) -> Path:
    """FILES small files in a git repository, all committed and older than SETTLED."""
    for number in range(FILES):
        below = folder / f"pkg{number // (10 * PER_FOLDER)}" / f"mod{number // PER_FOLDER}"
        if number % PER_FOLDER == 0:
            below.mkdir(parents=True)
        (below / f"file{number}.py").write_text(f"# file {number}\n" + f"value = {number}\n" * 50, encoding="utf-8")
    check(["git", "init", "--quiet"], folder, plain)
    check(["git", "add", "--all"], folder, plain)
    user = ["-c", "user.name=x", "-c", "user.email=x"]
    check(["git", *user, "commit", "--quiet", "--message=x"], folder, plain)
    time.sleep(SETTLED)
    return folder


def _changes(folder: Path) -> Callable[[], object]:
    """Changes one file at a time, each time another way."""
    numbers: Iterator[int] = itertools.count()

    def change() -> None:
        path = folder / "pkg7" / "mod77" / "file1550.py"
        path.write_text(f"changed = {next(numbers)}\n", encoding="utf-8")

    return change


def _nothing() -> None:
    """Nothing to do before."""
