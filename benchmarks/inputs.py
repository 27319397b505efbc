"""How soon a job starts whose input is there already: the second one with the same 10 GB."""

from __future__ import annotations

from pathlib import Path

from benchmarks import graphs
from benchmarks.measure import Case, Row
from benchmarks.ours import Dstack, write

FILES, EACH = 10, 1_000_000_000

_WORKFLOWS = f"""workflows:
  - name: make
    provider: bash
    commands:
      - for i in $(seq {FILES}); do head -c {EACH} /dev/urandom > data/$i; done
    artifacts: [data]
  - name: use
    provider: bash
    deps: [make]
    commands:
      - test $(ls data | wc -l) = {FILES}
      - echo hello from $((40 + 2))
  - name: plain
    provider: bash
    commands:
      - echo hello from $((40 + 2))
"""


def input_row(dstack: Dstack, scratch: Path) -> Row:
    """`first` is from the command's start to the job's line; the job with no input is what it costs to run one."""
    cwd = write(scratch / "input", {".dstack/workflows.yaml": _WORKFLOWS})
    dstack("run", "make", cwd=cwd)
    dstack("run", "use", cwd=cwd)
    line = graphs.HELLO.encode() + b"\n"
    cases = [
        Case("dstack", [dstack.program, "run", "use"], cwd, dstack.environment, line),
        Case("dstack, no input", [dstack.program, "run", "plain"], cwd, dstack.environment, line),
    ]
    return Row("input-10g", "a job whose input of 10 GB another job had before", cases, 5)
