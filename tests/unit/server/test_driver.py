"""The driver of the loops: what it runs in threads is over when it is."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from dstack.server.bus import Bus
from dstack.server.loops.driver import drive


class Round:
    """Work that goes on until it is let go."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.ended = False
        self.error = error

    def __call__(self) -> None:
        self.begun.set()
        assert self.go_on.wait(30)
        self.ended = True
        if self.error is not None:
            raise self.error


async def cancel_within(round_: Round) -> None:
    task = asyncio.create_task(drive("test", Bus(), ["topic"], lambda: 1.0, round_))
    await asyncio.to_thread(round_.begun.wait, 30)
    task.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not task.done(), "its thread is at work"
    round_.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert round_.ended


def test_cancelled_within_a_round_it_ends_with_that() -> None:
    asyncio.run(cancel_within(Round()))


def test_a_last_round_that_fails_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    asyncio.run(cancel_within(Round(OSError("the disk is gone"))))
    assert "the disk is gone" in caplog.text
