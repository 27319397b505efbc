"""Writes the measured rows as markdown tables, and holds them against the budgets."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Case, Idle, Row

PYTHON, OURS = "python -c pass", "dstack"
PEERS = ("dvc", "metaflow", "snakemake", "prefect")


@dataclass(frozen=True, slots=True)
class Results:
    rows: Mapping[str, Row]
    idle: Mapping[str, Idle]
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One budget: what was found, in words, and how many times the budget that is (at most 1 is met)."""

    found: str
    share: float


@dataclass(frozen=True, slots=True)
class Budget:
    what: str
    limit: str
    judge: Callable[[Results], Verdict | None]
    """None when what it needs was not measured."""


def _ratio(row: str, what: str, ours: str, other: str, limit: float) -> Callable[[Results], Verdict | None]:
    def judge(results: Results) -> Verdict | None:
        mine = _get(results, row, ours, what)
        reference = _get(results, row, other, "wall" if what == "first" else what)
        if mine is None or not reference:
            return None
        return Verdict(f"{mine / reference:.2f} ×", mine / reference / limit)

    return judge


def _seconds(row: str, what: str, limit: float, per: int = 1) -> Callable[[Results], Verdict | None]:
    def judge(results: Results) -> Verdict | None:
        mine = _get(results, row, OURS, what)
        if mine is None:
            return None
        each = mine / per
        return Verdict(f"{each:.2f} s" if each >= 0.1 else f"{1000 * each:.1f} ms", each / limit)

    return judge


def _fastest_peer(results: Results) -> Verdict | None:
    mine = _get(results, "hello", OURS, "first")
    peers = {peer: first for peer in PEERS if (first := _get(results, "hello", peer, "first")) is not None}
    if mine is None or not peers:
        return None
    fastest = min(peers, key=peers.__getitem__)
    return Verdict(f"{mine / peers[fastest]:.2f} × {fastest}", mine / peers[fastest])


def _rate(results: Results) -> Verdict | None:
    mine = _get(results, "fan-1000", OURS, "wall")
    return None if mine is None else Verdict(f"{1000 / mine:.0f}/s", 330 * mine / 1000)


def _growth(results: Results) -> Verdict | None:
    small, large = _get(results, "fan-1000", OURS, "wall"), _get(results, "fan-10000", OURS, "wall")
    if small is None or large is None:
        return None
    return Verdict(f"{large / small / 10:.2f} ×", large / small / 10 / 1.25)


def _memory(program: str, limit: float) -> Callable[[Results], Verdict | None]:
    def judge(results: Results) -> Verdict | None:
        idle = results.idle.get(program)
        return None if idle is None else Verdict(f"{idle.resident / 1e6:.0f} MB", idle.resident / 1e6 / limit)

    return judge


def _calm(program: str) -> Callable[[Results], Verdict | None]:
    def judge(results: Results) -> Verdict | None:
        idle = results.idle.get(program)
        return None if idle is None else Verdict(f"{idle.cpu:.1f} % of a core", idle.cpu / 1.0)

    return judge


BUDGETS = (
    Budget("`--help`, CPU", "≤ 6 × bare Python", _ratio("help", "cpu", OURS, PYTHON, 6)),
    Budget("hello, everything running: first line", "≤ 15 × bare Python", _ratio("hello", "first", OURS, PYTHON, 15)),
    Budget("hello, everything running: first line", "faster than every peer", _fastest_peer),
    Budget("hello, server not running: first line", "≤ 2 s", _seconds("cold", "first", 2)),
    Budget("hello, first ever: first line", "≤ 3 s", _seconds("first", "first", 3)),
    Budget("1,000 steps", "≤ make with Python per step", _ratio("fan-1000", "wall", OURS, "make, python -c pass", 1)),
    Budget("1,000 steps, aim", "≥ 330/s", _rate),
    Budget("a step of 10,000, beside one of 1,000", "≤ 1.25 ×", _growth),
    Budget("a hop of a chain of 100", "≤ 10 ms", _seconds("chain", "wall", 0.010, 100)),
    Budget("1 M lines, buffered", "≤ 2 × into a file", _ratio("lines-buffered", "wall", OURS, "into a file", 2)),
    Budget("1 M lines, unbuffered", "≤ 2 × into a file", _ratio("lines-unbuffered", "wall", OURS, "into a file", 2)),
    Budget("`dstack validate` of 200 workflows", "≤ 0.3 s", _seconds("validate-200", "wall", 0.3)),
    Budget("a graph of 10,000 steps planned", "≤ 2 s", _seconds("plan-10000", "wall", 2)),
    Budget("a completion", "≤ 80 ms", _seconds("complete", "wall", 0.08)),
    Budget("idle server, resident", "≤ 120 MB", _memory("dstack server", 120)),
    Budget("idle server, CPU", "~0 % (≤ 1 %)", _calm("dstack server")),
    Budget("idle runner, resident", "≤ 60 MB", _memory("dstack runner", 60)),
    Budget("idle runner, CPU", "~0 % (≤ 1 %)", _calm("dstack runner")),
)


def write(results: Results, budgets: Sequence[Budget] = BUDGETS) -> str:
    """Everything that was measured, as markdown."""
    parts = [f"{machine()}; {', '.join(f'{name} {version}' for name, version in results.versions.items())}."]
    parts.append(_table(["Budget", "Limit", "Found", ""], _budgets(results, budgets)))
    parts += [f"**{row.title}** ({row.name})\n\n{_row(row)}" for row in results.rows.values()]
    if results.idle:
        lines = [
            [name, f"{idle.resident / 1e6:.0f}", f"{idle.proportional / 1e6:.0f}", f"{idle.cpu:.1f}"]
            for name, idle in results.idle.items()
        ]
        parts.append("**Idle programs** (idle)\n\n" + _table(["", "resident, MB", "proportional, MB", "CPU, %"], lines))
    return "\n\n".join(parts) + "\n"


def machine() -> str:
    """What it was measured on, without naming the machine."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    cores = subprocess.run(["nproc"], capture_output=True, text=True, check=True).stdout.strip()
    return f"{cores} × {cpu}, {platform.system()} {platform.release().split('-')[0]}"


def _budgets(results: Results, budgets: Sequence[Budget]) -> list[list[str]]:
    lines: list[list[str]] = []
    for budget in budgets:
        verdict = budget.judge(results)
        if verdict is not None:
            mark = "met" if verdict.share <= 1 else f"missed by {verdict.share:.1f} ×"
            lines.append([budget.what, budget.limit, verdict.found, mark])
    return lines


def _row(row: Row) -> str:
    """One line per tool: medians, and how many times ours the whole command took. Columns with nothing are left out."""
    if row.text:
        return row.text
    lines: list[list[str]] = []
    for case in row.cases:
        if row.median(case.tool) is None:
            why = row.notes.get(case.tool, "not run")
            lines.append([case.tool, case.lacking or f"failed: {why[:160]}".replace("\n", " ")])
        else:
            lines.append([case.tool, *(tell(row, case) for tell in _COLUMNS.values())])
    head = ["", *_COLUMNS]
    filled = [at for at in range(len(head)) if at < 2 or any(len(line) > at and line[at] for line in lines)]
    return _table([head[at] for at in filled], [[line[at] for at in filled if at < len(line)] for line in lines])


def _share(row: Row, case: Case) -> str:
    ours, wall = row.median(OURS), row.median(case.tool)
    return f"{wall / ours:.2f}" if ours and wall else ""


def _per(row: Row, case: Case) -> str:
    wall, size = row.median(case.tool), case.size or row.size
    return _each(wall / size) if wall and size > 1 else ""


def _through(row: Row, case: Case) -> str:
    wall = row.median(case.tool)
    return f"{row.rate[0] / wall:,.0f} {row.rate[1]}" if row.rate and wall else ""


def _megabytes(what: str) -> Callable[[Row, Case], str]:
    def tell(row: Row, case: Case) -> str:
        found = row.median(case.tool, what)
        return "" if found is None else f"{found / 1e6:.1f}" if found < 1e8 else f"{found / 1e6:,.0f}"

    return tell


_COLUMNS: Mapping[str, Callable[[Row, Case], str]] = {
    "return, s": lambda row, case: _number(row.median(case.tool)),
    "first line, s": lambda row, case: _number(row.median(case.tool, "first")),
    "CPU, s": lambda row, case: _number(row.median(case.tool, "cpu")),
    "each": _per,
    "rate": _through,
    "stored, MB": _megabytes("grown"),
    "memory, MB": _megabytes("memory"),
    "× dstack": _share,
    "runs": lambda row, case: str(len(row.samples[case.tool])),
}


def _get(results: Results, row: str, tool: str, what: str) -> float | None:
    return results.rows[row].median(tool, what) if row in results.rows else None


def _each(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms" if seconds >= 1e-4 else f"{1e6 * seconds:.2f} µs"


def _number(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.3f}" if seconds < 10 else f"{seconds:.1f}"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    padded = [[*line, *[""] * (len(head) - len(line))] for line in lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *padded])
