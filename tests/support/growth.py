"""How work grows with its input, so that what grows with the square is found on a machine of any speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Input = TypeVar("Input")
TIMES = 8


def growth(make: Callable[[int], Input], work: Callable[[Input], object], size: int) -> float:
    """How many times longer `work` takes on `make(TIMES * size)` than on `make(size)`: TIMES at most where it is
    linear, TIMES squared where it is quadratic. Of three tries the shortest time of each counts."""
    return _shortest(make(TIMES * size), work) / _shortest(make(size), work)


def _shortest(given: Input, work: Callable[[Input], object]) -> float:
    def spent() -> float:
        began = time.process_time()
        work(given)
        return time.process_time() - began

    return min(spent() for _ in range(3))
