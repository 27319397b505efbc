"""The budgets of artifacts, and how what was measured is held against them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.artifacts import INSIDE, OURS
from benchmarks.capturing import CAPTURED
from benchmarks.measure import Row
from benchmarks.report import Budget, Results, Verdict
from benchmarks.scale import COUNTS

Judge = Callable[[Results], Verdict | None]
_WORDS = {"a": "2 GiB", "b": "20,000 files"}


def _seconds(row: str, tool: str, limit: float, what: str = "wall") -> Judge:
    def judge(results: Results) -> Verdict | None:
        found = _median(results, row, tool, what)
        return None if found is None else Verdict(f"{found:.2f} s", found / limit)

    return judge


def _faster_than(row: str, peers: Sequence[str]) -> Judge:
    def judge(results: Results) -> Verdict | None:
        mine = _median(results, row, OURS)
        others = {peer: wall for peer in peers if (wall := _median(results, row, peer))}
        if mine is None or not others:
            return None
        best = min(others, key=others.__getitem__)
        return Verdict(f"{mine / others[best]:.2f} × {best}", mine / others[best])

    return judge


def _rate(row: str, least: float) -> Judge:
    def judge(results: Results) -> Verdict | None:
        mine = _median(results, row, OURS)
        if mine is None:
            return None
        rate = 20_000 / mine
        return Verdict(f"{rate:,.0f}/s", least / rate)

    return judge


def _stored(row: str, limit: float) -> Judge:
    def judge(results: Results) -> Verdict | None:
        found = _median(results, row, OURS, "grown")
        return None if found is None else Verdict(f"{found / (1 << 20):.2f} MiB", found / limit)

    return judge


def _memory(row: str) -> Judge:
    def judge(results: Results) -> Verdict | None:
        found = results.rows.get(row)
        tools = [] if found is None else [case.tool for case in found.cases]
        values = {tool: value for tool in tools if (value := _median(results, row, tool, "memory"))}
        if not values:
            return None
        most = max(values, key=values.__getitem__)
        return Verdict(f"{values[most] / 1e6:.0f} MB ({most})", values[most] / 300e6)

    return judge


def _even(row: str) -> Judge:
    """The cost of a file in the smallest and the largest folder, beside that in the middle one."""

    def judge(results: Results) -> Verdict | None:
        found = results.rows.get(row)
        costs = [] if found is None else [_cost(found, count) for count in COUNTS]
        if not costs or None in costs:
            return None
        each = [cost for cost in costs if cost is not None]
        off = [cost / each[1] - 1 for cost in (each[0], each[-1])]
        worst = max(off, key=abs)
        return Verdict(f"{100 * worst:+.0f} %", abs(worst) / 0.25)

    return judge


def _cost(row: Row, count: int) -> float | None:
    cpu = row.median(f"{count:,} files", "cpu")
    return None if cpu is None else cpu / count


def _median(results: Results, row: str, tool: str, what: str = "wall") -> float | None:
    return results.rows[row].median(tool, what) if row in results.rows else None


def _of(kind: str) -> list[Budget]:
    words = _WORDS[kind]
    first, unchanged, changed = (f"save-{kind}-{when}" for when in ("first", "unchanged", "changed"))
    return [
        Budget(
            f"first save of {words}", "faster than borg, restic, dvc", _faster_than(first, ("borg", "restic", "dvc"))
        ),
        *([Budget("first save of 20,000 files", "≥ 10,000 files/s", _rate(first, 10_000))] if kind == "b" else []),
        Budget(f"unchanged re-save of {words}, whole command", "≤ 0.4 s", _seconds(unchanged, OURS, 0.4)),
        Budget(f"unchanged re-save of {words}, in the agent", "≤ 1 s", _seconds(unchanged, INSIDE, 1.0)),
        *(
            [
                Budget("save after 1 MiB changed", "≤ 4 MiB stored", _stored(changed, 4 << 20)),
                Budget("save after 1 MiB changed", "≤ 0.5 s", _seconds(changed, OURS, 0.5)),
            ]
            if kind == "a"
            else []
        ),
        Budget(
            f"restore of {words}", "faster than borg and restic", _faster_than(f"restore-{kind}", ("borg", "restic"))
        ),
        *([Budget("restore of 20,000 files", "≥ 8,000 files/s", _rate("restore-b", 8_000))] if kind == "b" else []),
    ]


ARTIFACT_BUDGETS: tuple[Budget, ...] = (
    *_of("a"),
    *_of("b"),
    Budget("a saved file's CPU, 1,000 to 200,000 files", "± 25 %", _even("scale-save")),
    Budget("a restored file's CPU, 1,000 to 200,000 files", "± 25 %", _even("scale-restore")),
    Budget("capture of a job of 60 s, CPU", "≤ 1.8 s", _seconds("capture", CAPTURED, 1.8, "cpu")),
    Budget("peak memory, a sparse file of 200 GB", "≤ 300 MB", _memory("memory-sparse")),
    Budget("peak memory, 1,000,000 files", "≤ 300 MB", _memory("memory-files")),
    Budget("a job with the same input of 10 GB", "first line ≤ 1 s", _seconds("input-10g", OURS, 1.0, "first")),
)
