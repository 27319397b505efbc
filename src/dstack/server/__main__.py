"""`python -m dstack.server`: run the server in the foreground.

`--embedded` serves this home's private socket; `--ready-fd N` is a pipe that hears `ok` or what went wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from dstack import embedded
from dstack.server.app import Server, build_context
from dstack.server.db.errors import DatabaseError
from dstack.server.door import Door, HomeDoor, TcpDoor
from dstack.server.location import database_folder
from dstack.server.services.errors import ServiceError
from dstack.server.services.power_cut import BootCheck
from dstack.server.settings import Settings, from_environment
from dstack.snapshots.errors import SnapshotError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dstack.server")
    parser.add_argument("--embedded", action="store_true")
    parser.add_argument("--ready-fd", type=int)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    starter = _Starter(options.ready_fd)
    try:
        _serve(options.embedded, starter)
    except (embedded.EmbeddedError, DatabaseError, ServiceError, SnapshotError, OSError, ValueError) as error:
        return _fail(starter, str(error))
    return 0


class _Starter:
    """Whoever started this server, and hears one word of it through a pipe: the first."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def tell(self, text: str) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            # Whoever it was may have been killed: the server is up all the same, or says why not in its log.
            with suppress(BrokenPipeError), open(fd, "wb", buffering=0) as pipe:
                pipe.write(text.encode())


def _serve(is_embedded: bool, starter: _Starter) -> None:
    home = embedded.home_folder()
    settings = from_environment(Settings(home=Path(home)))
    door: Door
    if is_embedded:
        door = HomeDoor(home, settings.socket)
        settings = replace(settings, socket=door.path)
    elif settings.port:
        door = TcpDoor(settings.host or "127.0.0.1", settings.port)
    else:
        raise ValueError("a server outside embedded mode needs DSTACK_SERVER_PORT")
    try:
        settings, note = _placed(settings)
        context = build_context(settings)
        boot = BootCheck(context)
        boot.look()
        server = Server(context)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        boot.begin()
        asyncio.run(server.run(door, lambda: starter.tell(f"ok\n{note}")))
        boot.end()
    finally:
        door.close()  # whoever started this server is told why it ends, and is not to find the home still taken


def _placed(settings: Settings) -> tuple[Settings, str]:
    """The settings with the database's place, and what a person should know of it."""
    if settings.database_url:
        return settings, ""
    folder = database_folder(settings.home)
    if folder == settings.home / "server":
        return settings, ""
    note = f"{settings.home} is on a network file system, so this host keeps its own database in {folder}"
    logging.getLogger(__name__).warning(note)
    return replace(settings, database_url=f"sqlite:///{folder / 'dstack.db'}"), note


def _fail(starter: _Starter, text: str) -> int:
    starter.tell(text)
    try:
        sys.stderr.write(f"error: {text}\n")
        sys.stderr.flush()
    except OSError:
        pass  # the log's disk is full; the one who started this server was told
    return 1


if __name__ == "__main__":
    sys.exit(main())
