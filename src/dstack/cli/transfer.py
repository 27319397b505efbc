"""A bar on a terminal while files go one way or the other, and a line when they have."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

from dstack.cli.render import is_coloured, say, size_words

Advance = Callable[[int], None]
_TOLD = 1 << 20
"""Bytes from which on a rate says something."""


@contextmanager
def transfer(
    what: str, total: int | Callable[[], int], moved: Callable[[], int] | None = None, *, held: int = 0
) -> Generator[Advance]:
    """Shows how many of `total` bytes are done, how fast, and for how long still; yields what is told of bytes.

    `moved` tells how many bytes had to be moved for that so far, up to `held` more being on their way: the rest is
    shown as spared. Drawn on stderr, where it is a terminal; elsewhere a `total` that takes time to find out is not
    asked for. SIGTERM and SIGHUP end the command meanwhile as Ctrl-C does, so that nothing half is left.
    """
    with _ended_in_order(), _bar(what, total, moved, held) as advance:
        yield advance


@contextmanager
def _ended_in_order() -> Generator[None]:
    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    before = [(number, signal.signal(number, end)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


@contextmanager
def _bar(what: str, total: int | Callable[[], int], moved: Callable[[], int] | None, held: int) -> Generator[Advance]:
    if not is_coloured(sys.stderr):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[spared]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total if isinstance(total, int) else total(), spared="")

        def advance(count: int) -> None:
            progress.advance(task, count)
            spared = int(progress.tasks[0].completed) - moved() - held if moved else 0
            if spared >= _TOLD:
                progress.update(task, spared=f"{size_words(spared)} spared")

        yield advance


class Measured:
    """Bytes of one transfer and the time it took."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def tell(self, what: str, size: int, moved: int, verb: str) -> None:
        """Say on stderr what is done: `size` bytes in all, of which `moved` had to be moved."""
        if size < _TOLD:
            return
        seconds = max(time.monotonic() - self._began, 1e-3)
        rate = f"{size_words(round(size / seconds))}/s"
        saved = max(0, size - moved)
        share = f", {size_words(saved)} of it spared: equal content {verb} once" if saved > size // 100 else ""
        say(f"{what}: {size_words(size)} in {seconds:.1f} s ({rate}){share}")
