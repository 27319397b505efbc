"""Starting a server: two forks, a relay between them, and the word that the server gives when it is ready."""

from __future__ import annotations

import os
import sys
import time

from dstack.embedded.home import StartFailed, log_path, unusable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

START_TIMEOUT = 60.0
_MAX_LOG = 8 << 20


def server_command() -> list[str]:
    """The program and arguments of an embedded server."""
    return [sys.executable, "-m", "dstack.server", "--embedded"]


class Launch:
    """A server that was started and has not yet said whether it is ready."""

    def __init__(self, pipe: int, home: str, log_start: int) -> None:
        self._pipe = pipe
        self._home = home
        self._log_start = log_start

    def wait(self, deadline: float) -> StartFailed | None:
        """Wait for the word of the server; what went wrong, or None."""
        import select

        said = b""
        try:
            while True:
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([self._pipe], [], [], left)[0]:
                    return self._failure(f"said nothing for {START_TIMEOUT:g} s")
                piece = os.read(self._pipe, 65536)
                if not piece:
                    break
                said += piece
        finally:
            os.close(self._pipe)
        if said.startswith(b"ok\n"):
            note = said[3:].decode("utf-8", "replace")
            if note:
                sys.stderr.write(f"note: {note}\n")
            return None
        return self._failure(said.decode("utf-8", "replace").strip())

    def _failure(self, text: str) -> StartFailed:
        path = log_path(self._home)
        with open(path, "rb") as file:
            file.seek(self._log_start)
            lines = file.read()[-8192:].decode("utf-8", "replace").splitlines()[-15:]
        tail = "".join(f"\n    {line}" for line in lines)
        return StartFailed(f"the local server did not start: {text}" + (f"\n  {path} ends with{tail}" if tail else ""))


def spawn(home: str, start_lock: int) -> Launch:
    """Start a server in its own session and return at once. The caller holds start.lock, which the relay inherits."""
    path = log_path(home)
    try:
        if os.path.exists(path) and os.path.getsize(path) > _MAX_LOG:
            os.replace(path, f"{path}.1")
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise unusable(path, error) from error
    log_start = os.lseek(log, 0, os.SEEK_END)
    receive, send = os.pipe()
    if os.fork() == 0:
        # Nothing else may stay open: a thread of the caller may be waiting for a lock, which a copy of its descriptor
        # would keep for as long as the relay lives.
        _close_except(log, send, start_lock)
        _relay(home, log, send)
    os.close(send)
    os.close(log)
    return Launch(receive, home, log_start)


def _relay(home: str, log: int, send: int) -> NoReturn:
    """In the first child: start the server, pass on what it says, end. Ending lets go of start.lock."""
    code = 1
    try:
        os.setsid()
        os.chdir("/")
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        receive, ready = os.pipe()
        server = os.fork()
        if server == 0:
            _exec_server(home, ready)
        os.close(ready)
        said = b""
        while piece := os.read(receive, 65536):
            said += piece
        if not said:
            status = os.waitstatus_to_exitcode(os.waitpid(server, 0)[1])
            how = f"with exit code {status}" if status >= 0 else f"by signal {-status}"
            said = f"it ended {how} before it was ready".encode()
        os.write(send, said)
        code = 0
    except BrokenPipeError:
        code = 0  # the command line was killed; the server is up all the same
    except OSError as error:
        os.write(send, f"{error.strerror or error}".encode())
    finally:
        os._exit(code)


def _exec_server(home: str, ready: int) -> NoReturn:
    try:
        os.set_inheritable(ready, True)
        # Whatever a shell or a build tool left open must not live as long as the server does.
        _close_except(ready)
        environment = {
            name: value for name, value in os.environ.items() if name not in ("DSTACK_SERVER", "DSTACK_TOKEN")
        }
        environment["DSTACK_HOME"] = home
        command = [*server_command(), "--ready-fd", str(ready)]
        os.execve(command[0], command, environment)
    except OSError as error:
        os.write(ready, f"cannot start {sys.executable}: {error.strerror or error}".encode())
    finally:
        os._exit(127)


def _close_except(*kept: int) -> None:
    start = 3
    for fd in sorted(kept):
        os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, 65536)
