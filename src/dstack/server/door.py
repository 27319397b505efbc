"""Where a server listens: at a TCP port, or at the private socket of its home, which others may remove under it."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import suppress
from typing import Protocol

from dstack import embedded

_log = logging.getLogger(__name__)


class Door(Protocol):
    """`open` may be called again: when `is_gone` says that nobody can come in any more, and by a server that stays."""

    def open(self) -> socket.socket: ...

    def is_gone(self) -> bool: ...

    def is_lost(self) -> bool:
        """Whether what is behind it was removed: nobody is to come in any more."""
        ...

    def close(self) -> None: ...


class TcpDoor:
    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)

    def open(self) -> socket.socket:
        listener = socket.create_server(self._address, backlog=1024)
        listener.setblocking(False)
        return listener

    def is_gone(self) -> bool:
        return False

    def is_lost(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing of it stays."""


class HomeDoor:
    """The socket of a home, mode 0600, with the home's lock, which tells everybody where the socket is.

    A log-out removes $XDG_RUNTIME_DIR with all that is in it, and some systems clean up /tmp, while jobs and this
    server go on. So the socket is made again, somewhere else if its place is gone, and the lock says where.
    """

    def __init__(self, home: str, wanted: str = "") -> None:
        """Takes the lock. `wanted`: the socket's path, else the home's own. Raises EmbeddedError."""
        self._home = home
        self._wanted = wanted
        self._path = self._choose()
        self._bound: tuple[int, int] | None = None
        self._lock = embedded.HomeLock.acquire(home, socket=self._path)

    @property
    def path(self) -> str:
        return self._path

    def open(self) -> socket.socket:
        """Raises OSError, HomeUnusable."""
        path = self._choose()
        # Who holds the lock may remove what is there: nobody listens on it.
        with suppress(FileNotFoundError):
            os.unlink(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            listener.bind(path)
        finally:
            os.umask(mask)
        listener.listen(1024)
        listener.setblocking(False)
        self._bound = _identity(path)
        if path != self._path:
            self._path = path
            self._lock.tell(path)
        return listener

    def is_gone(self) -> bool:
        return _identity(self._path) != self._bound

    def is_lost(self) -> bool:
        return self._lock.is_lost()

    def close(self) -> None:
        if self._bound is not None and not self.is_gone():
            os.unlink(self._path)
        self._lock.release()

    def _choose(self) -> str:
        path = self._wanted or embedded.socket_path(self._home)
        embedded.make_socket_folder(path)
        return path


def _identity(path: str) -> tuple[int, int] | None:
    """Which file is at `path` now; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
