"""The runner of an embedded server: started when it is not there, adopted when it is."""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys

from dstack.domain.ports import Clock
from dstack.server.settings import Settings

_log = logging.getLogger(__name__)
LONGEST_PAUSE = 60.0
"""Seconds between two starts of a runner that ends at once, at the most."""


class LocalRunner:
    """Keeps one running; `ensure` is called on every tick and when a runner comes or goes."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._pause = 1.0
        self._not_before = clock.monotonic()
        self._process: subprocess.Popen[bytes] | None = None

    def ensure(self) -> bool:
        """Start the local runner unless its lock says that one runs; True when one was started."""
        if self._process is not None:
            self._process.poll()  # collects its exit status, once it has ended
        folder = self._settings.home / "runner"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if is_locked(str(folder / "lock")):
            self._pause = 1.0
            return False
        now = self._clock.monotonic()
        if now < self._not_before or not os.path.exists(sys.executable):
            # Where the environment that started this server was deleted, it ends when idle and a new one starts.
            return False
        self._not_before = now + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        with open(folder / "runner.log", "ab") as log:
            # Its own session, and nothing of ours open: it outlives this server, and its jobs outlive it.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dstack.runner", "--local"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                env={**_environment(), "DSTACK_HOME": str(self._settings.home)},
            )
        _log.info("started the local runner, process %d", self._process.pid)
        return True


def is_locked(path: str) -> bool:
    """Whether a process holds the lock file."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _environment() -> dict[str, str]:
    """Ours without the key of the secrets and a fault that was armed for the server: a runner has its own variable."""
    environment = dict(os.environ)
    fault = environment.pop("DSTACK_RUNNER_FAULT", None)
    environment.pop("DSTACK_FAULT", None)
    environment.pop("DSTACK_SERVER_SECRETS_KEY", None)  # no job's process is to find it above itself
    if fault is not None:
        environment["DSTACK_FAULT"] = fault
    return environment
