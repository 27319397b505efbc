"""`python -m dstack.runner`: run jobs of a server on this machine until told to end."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dstack import embedded
from dstack.runner import capacity
from dstack.runner.agent import Agent
from dstack.runner.settings import Settings, from_environment

SAID_AGAIN_AFTER = 60.0
"""Seconds after which the same line may stand in the log again."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="dstack runner")
    parser.add_argument("--local", action="store_true", help="the runner of this home's embedded server")
    parser.add_argument("--server", default="", help="URL of a server; default: this home's embedded one")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(Sparing())
    try:
        settings = from_environment(Settings(home=Path(embedded.home_folder()), local=options.local))
        if options.server:
            settings = replace(settings, server=options.server)
        return _run(settings)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


def _run(settings: Settings) -> int:
    settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(settings.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if settings.local:
            return 0  # another one was quicker, and one is what was wanted
        sys.stderr.write(f"error: another runner works in {settings.folder}; set DSTACK_HOME for a second one\n")
        return 1
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    asyncio.run(_main(settings, lambda: not embedded.is_at(lock, settings.folder / "lock")))
    return 0


class Sparing(logging.Filter):
    """Lets a message through once a minute: a server that is away for days fills no disk with that."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._last: dict[tuple[str, str], tuple[str, float]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind, text, now = (record.name, str(record.msg)), record.getMessage(), self._now()
        said, at = self._last.get(kind, ("", 0.0))
        if said == text and now - at < SAID_AGAIN_AFTER:
            return False
        self._last[kind] = (text, now)
        return True


async def _main(settings: Settings, home_is_lost: Callable[[], bool]) -> None:
    agent = Agent(settings, await asyncio.to_thread(capacity.detect), home_is_lost)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    await agent.run()


if __name__ == "__main__":
    sys.exit(main())
