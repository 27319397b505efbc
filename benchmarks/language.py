"""What a person waits for while writing workflows: a check of many, the plan of a large graph, a completion."""

from __future__ import annotations

from pathlib import Path

from benchmarks import graphs
from benchmarks.measure import Case, Row
from benchmarks.ours import Dstack, write

CHECKED, PLANNED = 200, 10_000


def validate_row(dstack: Dstack, scratch: Path) -> Row:
    files = graphs.dstack_language(CHECKED)
    cwd = write(scratch / "dstack-validate", files)
    dstack("validate", cwd=cwd)
    ours = Case("dstack", [dstack.program, "validate"], cwd, dstack.environment)
    return Row("validate-200", f"check {CHECKED} workflows that use the language's keys", [ours], 11)


def plan_row(dstack: Dstack, scratch: Path) -> Row:
    cwd = write(scratch / "dstack-plan", graphs.dstack_fan(PLANNED))
    command = [dstack.program, "run", "all", "--plan", "--json"]
    ours = Case("dstack", command, cwd, dstack.environment, before=lambda: dstack("runs", cwd=cwd))
    return Row("plan-10000", f"plan a graph of {PLANNED:,} steps", [ours], 3)


def complete_row(dstack: Dstack, python: Case, scratch: Path) -> Row:
    cwd = write(scratch / "dstack-complete", graphs.dstack_language(CHECKED))
    dstack("workflows", cwd=cwd)
    ours = Case("dstack", [dstack.program, "__complete", "bash", "dstack run s1"], cwd, dstack.environment)
    return Row("complete", f"complete the name of one of {CHECKED} workflows", [ours, python], 15)
