"""Waiting for a growing file costs few wake-ups and misses nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dstack.runner import inotify
from dstack.runner.inotify import SpoolWatch

LINES = "import os, time, sys\nend = time.monotonic() + 0.5\nwhile time.monotonic() < end: os.write(1, b'line\\n')\n"


def write_lines(path: Path) -> subprocess.Popen[bytes]:
    with open(path, "wb") as spool:
        return subprocess.Popen([sys.executable, "-c", LINES], stdout=spool)


def described(fd: int) -> str:
    return Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii")


@pytest.fixture(params=["inotify", "polling"])
def polled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param == "polling":
        monkeypatch.setattr(inotify, "_inotify_init", lambda: -1)
    return request.param == "polling"


def test_a_job_that_writes_all_the_time_costs_few_wake_ups(tmp_path: Path, polled: bool) -> None:
    path = tmp_path / "spool"

    async def use() -> tuple[int, int]:
        watch = SpoolWatch()
        writer = write_lines(path)
        wakes = size = 0
        while writer.poll() is None or size < path.stat().st_size:
            try:
                async with asyncio.timeout(1):
                    size = await watch.grown(path, size)
            except TimeoutError:
                continue
            wakes += 1
        watch.close()
        return wakes, size

    wakes, size = asyncio.run(use())
    assert size == path.stat().st_size > 1000
    assert wakes <= 0.6 / inotify.INTERVAL


def test_the_first_byte_wakes_at_once_and_several_may_wait(tmp_path: Path, polled: bool) -> None:
    path = tmp_path / "spool"

    async def use() -> None:
        watch = SpoolWatch()
        path.touch()
        waiters = [asyncio.create_task(watch.grown(path, 0)) for _ in range(3)]
        await asyncio.sleep(0.03)
        begin = time.monotonic()
        path.write_bytes(b"x")
        assert await asyncio.gather(*waiters) == [1, 1, 1]
        if not polled:
            assert time.monotonic() - begin < 0.5
        assert await watch.grown(path, 0) == 1
        watch.forget(path)
        watch.close()

    asyncio.run(use())


def test_a_file_that_does_not_exist_yet(tmp_path: Path, polled: bool) -> None:
    async def use() -> None:
        watch = SpoolWatch()
        waiter = asyncio.create_task(watch.grown(tmp_path / "spool", 0))
        await asyncio.sleep(0.05)
        (tmp_path / "spool").write_bytes(b"abc")
        assert await waiter == 3
        watch.close()

    asyncio.run(use())


def test_a_cancelled_wait_leaves_no_watch(tmp_path: Path) -> None:
    async def use() -> None:
        watch = SpoolWatch()
        path = tmp_path / "spool"
        path.touch()
        for _ in range(50):
            waiter = asyncio.create_task(watch.grown(path, 0))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            waiter.cancel()
            await asyncio.gather(waiter, return_exceptions=True)
        assert "inotify wd" not in described(watch._fd)
        watch.close()

    if os.path.exists("/proc/self/fdinfo"):
        asyncio.run(use())
