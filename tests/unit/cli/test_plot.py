"""Curves in a terminal."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dstack.cli.plot import HEIGHT, draw, sparkline


def test_a_sparkline_rises_with_its_values() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"


def test_a_long_course_keeps_its_end() -> None:
    line = sparkline([0.0] * 99 + [1.0], 10)
    assert (len(line), line[-1]) == (10, "█")


def test_no_number_leaves_a_gap() -> None:
    assert sparkline([1, math.nan, 2], 10) == "▁ █"


def test_a_falling_curve() -> None:
    drawn = draw([0, 1, 2, 3], [3, 2, 1, 0], 12, lambda value: f"{value:g}").splitlines()
    columns = [[index for index, char in enumerate(line[5:]) if char != " "] for line in drawn[:HEIGHT]]
    assert columns == sorted(columns)
    assert columns[0][0] == 0
    assert columns[-1][-1] == 9
    assert [line[:5] for line in (drawn[0], drawn[HEIGHT // 2], drawn[HEIGHT - 1])] == ["  3 ┤", "1.5 ┤", "  0 ┤"]
    assert drawn[-1].split() == ["0", "3"]


def test_values_without_a_finite_one() -> None:
    assert draw([0, 1], [math.nan, math.inf], 40, str) == "  (no finite value)\n"


_FLOATS = st.floats(allow_nan=True, allow_infinity=True)


@example(points=[(0.0, 1.7e308)], width=40)
@example(points=[(0.0, 1.7e308), (1.0, -1.7e308)], width=40)
@example(points=[(0.0, 5e-324), (1.0, 0.0)], width=40)
@given(st.lists(st.tuples(_FLOATS, _FLOATS), max_size=30), st.integers(1, 200))
def test_any_values_give_lines_of_the_width_asked(points: list[tuple[float, float]], width: int) -> None:
    drawn = draw([x for x, _ in points], [y for _, y in points], width, lambda value: f"{value:.3g}")
    if any(math.isfinite(x) and math.isfinite(y) for x, y in points):
        finite = {y for x, y in points if math.isfinite(x) and math.isfinite(y)}
        lines = drawn.splitlines()
        assert len(lines) == (HEIGHT if len(finite) > 1 else 1) + 2
        assert max(map(len, lines[:-2])) <= max(width, 40)
    assert len(sparkline([y for _, y in points], 10)) <= 10


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0])
def test_a_constant_takes_one_line(value: float) -> None:
    drawn = draw([0, 1, 2], [value] * 3, 40, lambda v: f"{v:g}").splitlines()
    assert len(drawn) == 3
    assert drawn[0].startswith(f"{value:g} ┤")
    assert any("⠁" <= char <= "⣿" for char in drawn[0])
