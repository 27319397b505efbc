"""The pages' commands are run as they stand: ```bash run blocks, in order, in a fresh clone with a fresh HOME.

All blocks of a page are one story in one shell. A ```text output block after one says what it prints: its lines
must appear in this order; `…` stands for anything within a line, and alone on a line for any number of lines.
`RUN` as a word of its own stands for the name of the newest run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.markdown import ROOT, Block, blocks, pages
from tests.scenarios.person import PACKAGE_SETTINGS

RUNNABLE, OUTPUT = "bash run", "text output"
TIMEOUT = 240.0
"""Seconds for a whole page; the README's own, which makes an environment first, takes about 30."""

PRELUDE = """\
newest_run() { dstack runs -a --json | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["name"])'; }
"""


@dataclass(frozen=True, slots=True)
class Step:
    command: Block
    output: Block | None


def story(text: str) -> list[Step]:
    """The runnable blocks of a page, each with the output block that follows it."""
    steps: list[Step] = []
    for block in blocks(text):
        if block.info == RUNNABLE:
            steps.append(Step(block, None))
        elif block.info == OUTPUT:
            assert steps, f"line {block.line}: an output without a command before it"
            steps[-1] = Step(steps[-1].command, block)
    return steps


STORIES = [page for page in pages() if story((ROOT / page).read_text(encoding="utf-8"))]


class Machine:
    """A fresh HOME and a fresh clone of this tree, committed or not; nothing on the PATH but the basics."""

    def __init__(self, root: Path) -> None:
        self.root, self.clone, self.home = root, root / "clone", root / "home"
        self.clone.mkdir()
        self.home.mkdir()
        listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(listing, cwd=ROOT, check=True, capture_output=True).stdout.split(b"\0")[:-1]:
            source, target = ROOT / os.fsdecode(name), self.clone / os.fsdecode(name)
            if source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
        # The interpreter under this environment's own, as a new machine has it, and git.
        base = Path(getattr(sys, "_base_executable", sys.executable)).parent
        git = Path(shutil.which("git") or "/usr/bin/git").parent
        self.environment = {name: value for name, value in os.environ.items() if PACKAGE_SETTINGS.fullmatch(name)} | {
            "PATH": ":".join(dict.fromkeys([str(base), str(git), "/usr/bin", "/bin"])),
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            # Nothing stays behind after the test's `dstack server stop`.
            "DSTACK_RUNNER_ORPHAN_EXIT": "1",
        }
        self.shell("git init --quiet && git add --all && git -c user.name=t -c user.email=t@t commit --quiet -m clone")

    def shell(self, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", script],
            cwd=self.clone,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    programs = list(machine.clone.rglob("bin/dstack"))
    if programs:
        machine.shell(f"'{programs[0]}' server stop")


@pytest.mark.parametrize("page", STORIES, ids=str)
def test_the_commands_of_a_page_work_as_they_stand(page: Path, machine: Machine) -> None:
    steps = story((ROOT / page).read_text(encoding="utf-8"))
    script = PRELUDE + "set -eo pipefail\n"
    for number, step in enumerate(steps):
        script += f"printf '\\n@@ {number}\\n'\n{with_run_names(step.command.text)}\n"

    done = machine.shell(script)

    parts = re.split(r"^@@ (\d+)\n", done.stdout, flags=re.MULTILINE)
    printed = dict(zip(map(int, parts[1::2]), parts[2::2], strict=True))
    last = steps[max(printed)] if printed else steps[0]
    assert done.returncode == 0, f"{page}:{last.command.line} ended with {done.returncode}:\n{done.stdout[-4000:]}"
    assert (machine.home / ".dstack" / "server" / "dstack.db").is_file(), "where its state is when nothing else is said"
    for number, step in enumerate(steps):
        if step.output is not None:
            missing = first_missing(step.output.text, printed[number])
            assert missing is None, f"{page}:{step.output.line}: no line like {missing!r} in:\n{printed[number]}"


def with_run_names(command: str) -> str:
    """`command` with each `RUN` replaced by a look-up of the newest run."""
    return re.sub(r"(?<!\S)RUN(?!\S)", '"$(newest_run)"', command)


def first_missing(wanted: str, printed: str) -> str | None:
    """The first line of `wanted` that `printed` does not have, in order; None when it has them all.

    Lines follow each other directly unless a line of `…` stands between them; the first may come after any others.
    """
    lines, position, skip = printed.splitlines(), 0, True
    for line in wanted.splitlines():
        if line.strip() == "…":
            skip = True
            continue
        pattern = ".*".join(re.escape(piece) for piece in line.rstrip().split("…"))
        candidates = range(position, len(lines) if skip else min(position + 1, len(lines)))
        found = next((at for at in candidates if re.fullmatch(pattern, lines[at].rstrip())), None)
        if found is None:
            return line
        position, skip = found + 1, False
    return None


@pytest.mark.parametrize(
    ("wanted", "missing"),
    [
        ("b\n", None),
        ("b\nc\n", None),
        ("a\n…\nd…\n", None),
        ("a\nc\n", "c"),
        ("c\n…\nb\n", "b"),
        ("bb\n", "bb"),
        ("… 4\n", None),
    ],
)
def test_first_missing(wanted: str, missing: str | None) -> None:
    assert first_missing(wanted, "a\nb\nc\nd e 4\n") == missing


def test_run_names_are_looked_up() -> None:
    assert with_run_names("dstack tag RUN x\ndstack logs RUN\n") == (
        'dstack tag "$(newest_run)" x\ndstack logs "$(newest_run)"\n'
    )
    assert with_run_names("echo RUNNER\n") == "echo RUNNER\n"


def test_the_readme_and_the_quickstart_are_run() -> None:
    assert {Path("README.md"), Path("docs/quickstart.md")} <= set(STORIES)
