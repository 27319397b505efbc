"""Pausing Python's collector of cycles while many objects are made that have none.

It looks at all of them again and again as they become more: a third of the time that a large file takes.
"""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def paused() -> Generator[None]:
    """Nothing is collected meanwhile, in other threads neither: for fractions of a second only.

    Of threads that pause it at once, the first to end lets it go on.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
