"""Real jobs for tests of the process executor, and a check that they leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from dstack.runner.executors import tree
from dstack.runner.executors.interface import MARKER, Launch


def make_launch(base: Path, *script: str, argv: tuple[str, ...] = (), env: dict[str, str] | None = None) -> Launch:
    """A job in a folder of its own below `base`, which is also where it runs."""
    attempt = uuid.uuid4()
    folder = base / attempt.hex
    folder.mkdir()
    return Launch(attempt, folder, folder, {"PATH": os.environ["PATH"], **(env or {})}, argv=argv, script=script)


def processes_of(attempt: uuid.UUID) -> list[int]:
    """Pids of live processes that carry the attempt's marker."""
    marker = f"\0{MARKER}={attempt.hex}\0".encode()
    return [pid for pid, entry in tree.snapshot().items() if not entry.zombie and marker in tree.environment(pid)]


def spool(launch: Launch) -> bytes:
    return (launch.folder / "spool").read_bytes()


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for something that another process does; fails when it takes longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not come to that within {seconds} s"
        await asyncio.sleep(0.005)


async def until_spool(launch: Launch, text: bytes = b"up") -> None:
    """Wait until the job has written `text`."""
    await until(lambda: (launch.folder / "spool").exists() and text in spool(launch), 60)
