"""Signals while a run is followed. None of them ends the run by itself.

Reading and writing alternate: an interrupt may break off the waiting for bytes at any point, since what was not
written yet is asked for again, but not the writing, or a piece would be shown twice.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Self


class Interrupted(BaseException):
    """Ctrl-C while waiting. Not an Exception: nothing on the way may take it for a failed connection."""


class Terminated(BaseException):
    """SIGTERM, at any point."""


class Interrupts:
    """Turns SIGINT and SIGTERM into exceptions where they do no harm. Use as a context."""

    def __init__(self) -> None:
        self._waiting = False
        self._asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number, handler in ((signal.SIGINT, self._on_interrupt), (signal.SIGTERM, self._on_terminate)):
            self._before[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wait(self) -> None:
        """From here on an interrupt breaks off. Raises Interrupted for one that came before."""
        self._waiting = True
        if self._asked:
            self._break_off()

    def work(self) -> None:
        """From here on an interrupt is kept for the next `wait`, unless a second one follows."""
        self._waiting = False

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        # A second one while writing means that nobody takes what is written.
        if self._waiting or self._asked:
            self._break_off()
        self._asked = True

    def _break_off(self) -> None:
        self._asked = self._waiting = False
        raise Interrupted

    def _on_terminate(self, number: int, frame: FrameType | None) -> None:
        raise Terminated


def has_terminal() -> bool:
    """Whether there is a person who can be asked."""
    return os.isatty(0) and os.isatty(2)


def wait_for_input(fd: int) -> None:
    """Wait until `fd` can be read or a signal has come.

    A blocking read would miss a signal that arrives just before it: the handler then runs only after the read.
    """
    import select

    heard, woken = os.pipe()
    os.set_blocking(woken, False)
    before = signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    try:
        select.select([fd, heard], [], [])
    finally:
        signal.set_wakeup_fd(before)
        os.close(heard)
        os.close(woken)
