"""The budgets that the benchmarks judge by are those that were asked for, and a miss is told as one."""

from __future__ import annotations

import pytest

from benchmarks.measure import Idle, Row, Sample
from benchmarks.report import OURS, PYTHON, Results, write

FIELDS = ("wall", "cpu", "first")
PEER = "make, python -c pass"
BUDGETS = [
    # what, as the table names it; row; of ours; unit; the limit; the same of another tool, which the limit multiplies
    ("`--help`, CPU", "help", "cpu", 6.0, (PYTHON, "cpu")),
    ("hello, everything running: first line | ≤ 15 × bare Python", "hello", "first", 15.0, (PYTHON, "wall")),
    ("hello, everything running: first line | faster than every peer", "hello", "first", 1.0, ("dvc", "first")),
    ("hello, server not running: first line", "cold", "first", 2.0, None),
    ("hello, first ever: first line", "first", "first", 3.0, None),
    ("1,000 steps | ≤ make with Python per step", "fan-1000", "wall", 1.0, (PEER, "wall")),
    ("1,000 steps, aim", "fan-1000", "wall", 1000 / 330, None),
    ("a hop of a chain of 100", "chain", "wall", 1.0, None),
    ("1 M lines, buffered", "lines-buffered", "wall", 2.0, ("into a file", "wall")),
    ("1 M lines, unbuffered", "lines-unbuffered", "wall", 2.0, ("into a file", "wall")),
    ("`dstack validate` of 200 workflows", "validate-200", "wall", 0.3, None),
    ("a graph of 10,000 steps planned", "plan-10000", "wall", 2.0, None),
    ("a completion", "complete", "wall", 0.08, None),
]


def sample(what: str, seconds: float) -> Sample:
    return Sample(**{name: seconds if name == what else 0.001 for name in FIELDS})


def verdict(results: Results, what: str) -> str:
    [line] = [line for line in write(results).splitlines() if line.startswith(f"| {what} |")]
    return line.strip("| ").rpartition("| ")[2]


@pytest.mark.parametrize(("what", "row", "of", "limit", "other"), BUDGETS)
@pytest.mark.parametrize(("times", "said"), [(0.99, "met"), (1.3, "missed by 1.3 ×")])
def test_a_limit_is_the_one_that_was_asked_for(
    what: str, row: str, of: str, limit: float, other: tuple[str, str] | None, times: float, said: str
) -> None:
    made = Row(row, "", [])
    made.samples[OURS] = [sample(of, limit * times)]
    if other is not None:
        made.samples[other[0]] = [sample(other[1], 1.0)]
    assert verdict(Results({row: made}, {}, {}), what) == said


@pytest.mark.parametrize(("times", "said"), [(0.99, "met"), (1.3, "missed by 1.3 ×")])
def test_ten_thousand_steps_may_cost_a_quarter_more_each(times: float, said: str) -> None:
    rows = {name: Row(name, "", []) for name in ("fan-1000", "fan-10000")}
    rows["fan-1000"].samples[OURS] = [sample("wall", 1.0)]
    rows["fan-10000"].samples[OURS] = [sample("wall", 12.5 * times)]
    assert verdict(Results(rows, {}, {}), "a step of 10,000, beside one of 1,000") == said


@pytest.mark.parametrize(("program", "megabytes"), [("server", 120), ("runner", 60)])
@pytest.mark.parametrize(("times", "said"), [(0.99, "met"), (1.3, "missed by 1.3 ×")])
def test_idle_programs_may_hold_so_much(program: str, megabytes: int, times: float, said: str) -> None:
    resting = {f"dstack {program}": Idle(int(megabytes * 1e6 * times), 0, times)}
    results = Results({}, resting, {})
    assert verdict(results, f"idle {program}, resident") == said
    assert verdict(results, f"idle {program}, CPU") == said
