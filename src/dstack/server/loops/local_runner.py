"""The runner of an embedded server: started when it is not there, adopted when it is."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

from dstack.server.settings import Settings

_log = logging.getLogger(__name__)


def ensure(settings: Settings) -> bool:
    """Start the local runner unless its lock says that one runs; True when one was started."""
    folder = settings.home / "runner"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if _is_locked(folder / "lock"):
        return False
    with open(folder / "runner.log", "ab") as log:
        # Its own session, and nothing of ours open: it outlives this server, and its jobs outlive it.
        subprocess.Popen(
            [sys.executable, "-m", "dstack.runner", "--local"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
            env={**_without_faults(), "DSTACK_HOME": str(settings.home)},
        )
    _log.info("started the local runner")
    return True


def _is_locked(path: Path) -> bool:
    import fcntl

    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _without_faults() -> dict[str, str]:
    """The environment without a fault armed for the server: the runner has its own variable."""
    environment = dict(os.environ)
    fault = environment.pop("DSTACK_RUNNER_FAULT", None)
    environment.pop("DSTACK_FAULT", None)
    if fault is not None:
        environment["DSTACK_FAULT"] = fault
    return environment
