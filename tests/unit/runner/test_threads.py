"""Work in threads, cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from dstack.runner.threads import stoppable, whole


def test_it_gives_what_the_work_gives() -> None:
    def work(a: int, *, b: int) -> int:
        return a + b

    def fail() -> None:
        raise OSError("full")

    assert asyncio.run(whole(work, 1, b=2)) == 3
    assert asyncio.run(stoppable(lambda stopped: stopped())) is False
    with pytest.raises(OSError, match="full"):
        asyncio.run(whole(fail))


def test_cancelled_it_ends_with_its_work() -> None:
    begun, go_on = threading.Event(), threading.Event()
    ended: list[bool] = []

    def work() -> None:
        begun.set()
        assert go_on.wait(30)
        ended.append(True)
        raise OSError("whatever it comes to, nobody waits for it any more")

    async def course() -> None:
        task = asyncio.create_task(whole(work))
        await asyncio.to_thread(begun.wait, 30)
        task.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended

    asyncio.run(course())


def test_cancelled_it_tells_its_work_to_stop() -> None:
    begun, rounds = threading.Event(), threading.Event()

    def work(stopped: Callable[[], bool]) -> None:
        begun.set()
        while not stopped():
            rounds.wait(0.001)

    async def course() -> None:
        task = asyncio.create_task(stoppable(work))
        await asyncio.to_thread(begun.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(course())
