"""`python -m dstack.runner`: run jobs of a server on this machine until told to end."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import logging
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from dstack import embedded
from dstack.runner import capacity
from dstack.runner.agent import Agent
from dstack.runner.settings import Settings, from_environment


def main() -> int:
    parser = argparse.ArgumentParser(prog="dstack runner")
    parser.add_argument("--local", action="store_true", help="the runner of this home's embedded server")
    parser.add_argument("--server", default="", help="URL of a server; default: this home's embedded one")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
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
    asyncio.run(_main(settings))
    return 0


async def _main(settings: Settings) -> None:
    agent = Agent(settings, await asyncio.to_thread(capacity.detect))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    await agent.run()


if __name__ == "__main__":
    sys.exit(main())
