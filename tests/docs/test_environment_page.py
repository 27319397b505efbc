"""The page about a job's environment names every variable that goes with a run, and that a job is given."""

from __future__ import annotations

import re
from pathlib import Path

from dstack.client.environment import ALLOWED, NEVER
from dstack.runner.executors.interface import MARKER
from dstack.server.services import assignments

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "environment.md").read_text(encoding="utf-8")
OF_THE_SHELL, OF_DSTACK = PAGE.split("## From dstack")
NAMES = re.compile(r"`([A-Za-z_]+\*?)`")


def test_all_that_goes_with_a_run_is_named_and_nothing_else() -> None:
    table = "\n".join(line.split(" | ")[0] for line in OF_THE_SHELL.splitlines() if line.startswith("| `"))
    assert set(NAMES.findall(table)) == set(ALLOWED)
    assert all(f"`{name}`" in OF_THE_SHELL for name in NEVER)


def test_what_the_server_and_the_runner_add_is_named() -> None:
    sources = [Path(str(assignments.__file__)), *(ROOT / "src/dstack/runner").glob("*.py")]
    given = {
        name
        for path in sources
        for name in re.findall(r'"(DSTACK_[A-Z_]+|JOB_[A-Z]+|RUN_NAME)"[:\]]', path.read_text())
    }
    assert given >= {"DSTACK_RUN_NAME", "DSTACK_METRICS", "DSTACK_SERVER", "JOB_ID"}
    assert {*given, MARKER} <= set(NAMES.findall(OF_DSTACK))
