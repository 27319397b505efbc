"""Curves in a terminal: sparklines, and drawings in Braille, whose characters hold 2 × 4 dots each."""

from __future__ import annotations

import math
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HEIGHT = 10
"""Lines of a drawing, its lower axis apart."""
_BARS = "▁▂▃▄▅▆▇█"
# The bit of each dot in a Braille character, by row and column (Unicode, block "Braille Patterns").
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_BLANK = 0x2800


def sparkline(values: Sequence[float], width: int) -> str:
    """The course of `values` in up to `width` characters; NaN leaves a gap."""
    if not values:
        return ""
    chosen = [values[index * len(values) // width] for index in range(width)] if len(values) > width else list(values)
    if len(values) > width:
        chosen[-1] = values[-1]
    low, high = _range(chosen)
    return "".join(
        _BARS[min(int(_part(value, low, high) * len(_BARS)), len(_BARS) - 1)] if math.isfinite(value) else " "
        for value in chosen
    )


def draw(across: Sequence[float], values: Sequence[float], width: int, label: Callable[[float], str]) -> str:
    """A curve of `values` over `across` in `width` columns and `HEIGHT` lines, with its scales; a constant in one."""
    points = [(x, y) for x, y in zip(across, values, strict=True) if math.isfinite(x) and math.isfinite(y)]
    if not points:
        return "  (no finite value)\n"
    constant = all(y == points[0][1] for _, y in points)
    height = 1 if constant else HEIGHT
    low, high = _range([y for _, y in points])
    left, right = _range([x for x, _ in points])
    labels = [label(points[0][1])] if constant else [label(high), label(high / 2 + low / 2), label(low)]
    margin = max(map(len, labels))
    columns = max(width - margin - 3, 10)
    grid = _Grid(columns, height)
    placed = [
        (
            round(_part(x, left, right) * (columns * 2 - 1)),
            round((1 - _part(y, low, high)) * (height * 4 - 1)),
        )
        for x, y in points
    ]
    for start, end in zip(placed, placed[1:] or placed, strict=False):
        grid.line(start, end)
    at_line: dict[int, str] = dict(zip((0, height // 2, height - 1), labels, strict=False))
    lines = [f"{at_line.get(row, '').rjust(margin)} ┤{text}" for row, text in enumerate(grid.lines())]
    first, last = f"{left:g}", f"{right:g}"
    lines.append(f"{' ' * margin} └{'─' * columns}")
    lines.append(f"{' ' * margin}  {first}{last.rjust(max(columns - len(first), len(last) + 1))}")
    return "\n".join(line.rstrip() for line in lines) + "\n"


class _Grid:
    """Dots, four rows and two columns a character."""

    def __init__(self, columns: int, rows: int) -> None:
        self._cells = [[_BLANK] * columns for _ in range(rows)]

    def line(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        count = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
        for part in range(count + 1):
            x = round(start[0] + (end[0] - start[0]) * part / count)
            y = round(start[1] + (end[1] - start[1]) * part / count)
            self._cells[y // 4][x // 2] |= _DOTS[y % 4][x % 2]

    def lines(self) -> list[str]:
        return ["".join(chr(cell) if cell != _BLANK else " " for cell in row) for row in self._cells]


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The smallest and the largest finite value, moved apart where they are the same."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    if low < high:
        return low, high
    room = max(abs(low), 1.0) * 0.5
    return max(low - room, -sys.float_info.max), min(low + room, sys.float_info.max)


def _part(value: float, low: float, high: float) -> float:
    """Where `value` lies between `low` (0) and `high` (1)."""
    # Halves: the difference of two large numbers may be none.
    return (value / 2 - low / 2) / (high / 2 - low / 2) if high / 2 > low / 2 else 0.5
