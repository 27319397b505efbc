"""Find the private server of a home folder, or start it.

With no server configured, every command talks to one that runs for this user on this machine. Nothing but two file
locks decides who serves, so a killed process leaves nothing to clean up:

    home/server/lock        held by the server for its life; holds JSON {pid, version, socket, started_at}
    home/server/start.lock  held while somebody starts a server, until that server is ready or has failed

Whoever finds nobody listening takes start.lock, looks again, waits for a server that is just ending to let go of
`lock`, and only then starts one. Between the command line and the new server stands a small relay process that keeps
start.lock: a command line that is killed meanwhile does not let a second start begin.

    EmbeddedError        what a person reads: a message and a hint
    ├── HomeUnusable     the home folder cannot be written
    ├── StartFailed      the server did not come up; with the end of its log
    └── VersionConflict  a newer server is running
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time

import dstack
from dstack.client.wire import ConnectFailed, SocketTransport, WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, Self, TypedDict

    class Holder(TypedDict):
        """What a server writes into the lock that it holds."""

        pid: int
        version: str
        socket: str
        started_at: int


START_TIMEOUT = 60.0
STOP_TIMEOUT = 60.0
_MAX_SOCKET_PATH = 100  # bytes; the kernel's limit is 107 on Linux, 103 on macOS
_MAX_LOG = 8 << 20
_MAX_LAUNCHES = 3
_TICK = 0.1
_PROBE = 0.5


class EmbeddedError(Exception):
    """The local server cannot be used; `hint` says what to do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class HomeUnusable(EmbeddedError):
    """The home folder cannot be created or written."""


class StartFailed(EmbeddedError):
    """The server ended, or said nothing, before it was ready."""


class VersionConflict(EmbeddedError):
    """The running server is newer than this program."""


class LockHeld(EmbeddedError):
    """Another server has this home. `holder` says which, where it could be read."""

    def __init__(self, home: str, holder: Holder | None) -> None:
        who = f"process {holder['pid']} (dstack {holder['version']})" if holder else "another process"
        super().__init__(f"{home} is in use: {who} is its server", "stop it with: dstack server stop")
        self.holder = holder


def home_folder() -> str:
    """`DSTACK_HOME`, or `~/.dstack`, as an absolute path."""
    return os.path.abspath(os.environ.get("DSTACK_HOME") or os.path.expanduser("~/.dstack"))


def socket_path(home: str | os.PathLike[str]) -> str:
    """Where the server of `home` listens, unless its lock says otherwise."""
    import hashlib

    home = os.path.realpath(home)
    name = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and os.access(runtime, os.W_OK | os.X_OK):
        path = f"{runtime}/dstack-{name}/server.sock"
        if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
            return path
    path = f"{home}/server/server.sock"
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        return path
    return f"/tmp/dstack-{os.getuid()}/{name}/server.sock"  # noqa: S108 - its owner and mode are checked


def make_socket_folder(path: str) -> None:
    """Create the folder of the socket `path`, 0700; raises HomeUnusable when it belongs to somebody else.

    Under `/tmp` anybody could have made it first, and would then receive what is sent to the server.
    """
    folder = os.path.dirname(path)
    folders = [folder]
    if folder.startswith("/tmp/dstack-"):  # noqa: S108
        folders.insert(0, os.path.dirname(folder))
    for folder in folders:
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        except OSError as error:
            raise _unusable(folder, error) from error
        found = os.lstat(folder)
        if found.st_uid != os.getuid():
            raise HomeUnusable(f"{folder} belongs to user {found.st_uid}", "remove it, or set XDG_RUNTIME_DIR")
        if found.st_mode & 0o077:
            os.chmod(folder, 0o700)


def read_holder(home: str | os.PathLike[str]) -> Holder | None:
    """What the last server wrote into the lock; it may be gone since. None where it cannot be read."""
    try:
        with open(f"{os.fspath(home)}/server/lock", "rb") as file:
            holder = json.loads(file.read())
        return {
            "pid": int(holder["pid"]),
            "version": str(holder["version"]),
            "socket": str(holder["socket"]),
            "started_at": int(holder["started_at"]),
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None  # never served, just being written, or of a version that writes something else


class HomeLock:
    """The lock that a server holds for its life. The kernel lets go of it when the process ends, however it ends."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def acquire(cls, home: str | os.PathLike[str], *, socket: str) -> Self:
        """Take the lock. Raises LockHeld naming the holder, HomeUnusable."""
        home = os.fspath(home)
        path = f"{home}/server/lock"
        fd = _open(path)
        # Not at once: whoever asks whether the home is locked has the lock for a moment.
        if not _lock(fd, path, _PROBE):
            os.close(fd)
            raise LockHeld(home, read_holder(home))
        holder = {
            "pid": os.getpid(),
            "version": dstack.__version__,
            "socket": socket,
            "started_at": time.time_ns() // 1000,
        }
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(holder).encode() + b"\n", 0)
        return cls(fd)

    def release(self) -> None:
        """Let go, leaving the lock empty: nobody serves this home."""
        os.ftruncate(self._fd, 0)
        os.close(self._fd)


class Connector:
    """Connections to the server of one home. `connect` may be called again whenever a connection broke."""

    def __init__(self, home: str | None = None) -> None:
        self.home = home or home_folder()
        self.accept_newer = False
        """Whether a newer server is good enough: one that took over while a run is followed is."""
        self._launch: _Launch | None = None
        self._early: SocketTransport | None = None

    def begin(self) -> None:
        """Look for the server and start it if need be, without waiting: the caller has other work meanwhile."""
        self._early = self._find()
        if self._early is None:
            self._launch = self._start(wait=False)

    def connect(self) -> SocketTransport:
        """A connection to the server, started if need be. Raises EmbeddedError."""
        deadline = time.monotonic() + START_TIMEOUT
        launches = 0
        transport = self._take_early()
        while transport is None:
            failure = None
            if self._launch is not None:
                launches += 1
                failure = self._launch.wait(deadline)
                self._launch = None
            transport = self._take_early() or self._find()
            if transport is None:
                # Where another server took the home at the same moment, that one will do.
                if failure is not None and not is_locked(self.home):
                    raise failure
                if launches >= _MAX_LAUNCHES or time.monotonic() >= deadline:
                    raise self._nobody()
                self._launch = self._start(wait=True)
        return transport

    def find(self) -> SocketTransport | None:
        """A connection to the server if one runs; never starts one."""
        return _connect(self.home)

    def _take_early(self) -> SocketTransport | None:
        transport, self._early = self._early, None
        return transport

    def _find(self) -> SocketTransport | None:
        transport = self.find()
        if transport is None:
            return None
        holder = read_holder(self.home)
        theirs, ours = _numbers(holder["version"] if holder else ""), _numbers(dstack.__version__)
        if not theirs or theirs == ours or (theirs > ours and self.accept_newer):
            return transport
        if theirs > ours:
            transport.close()
            assert holder is not None
            raise VersionConflict(
                f"the server of {self.home} is dstack {holder['version']}, and this is {dstack.__version__}",
                f"install dstack {holder['version']} or newer here, or use another DSTACK_HOME",
            )
        # An older server: its jobs go on in the runner, and the newer server adopts them.
        _shut_down(self.home, transport, holder, STOP_TIMEOUT)
        return None

    def _start(self, *, wait: bool) -> _Launch | None:
        """Start a server unless somebody else serves or is about to; then wait for that to change, if asked to."""
        path = f"{self.home}/server/start.lock"
        start_lock = _open(path)
        try:
            if not _lock(start_lock, path, START_TIMEOUT if wait else 0.0):
                return None
            # Whoever had the lock may just have finished starting one.
            self._early = self._find()
            if self._early is not None:
                return None
            if is_locked(self.home):
                # A server that is ending, or one started by hand that is not ready: neither tells when it is done,
                # but the first lets go of its lock.
                if wait:
                    wait_unlocked(self.home, _TICK)
                return None
            return _spawn(self.home, start_lock)
        finally:
            os.close(start_lock)

    def _nobody(self) -> StartFailed:
        holder = read_holder(self.home)
        who = f"process {holder['pid']} has" if holder else "a process has"
        return StartFailed(
            f"{who} {self.home}/server/lock but does not listen on {holder['socket'] if holder else 'its socket'}",
            f"see {self.home}/server/server.log",
        )


def stop(home: str, timeout: float = STOP_TIMEOUT) -> bool:
    """Ask the server of `home` to end and wait until it has; False when none runs. Raises EmbeddedError."""
    holder = read_holder(home)
    transport = _connect(home)
    if transport is not None:
        _shut_down(home, transport, holder, timeout)
        return True
    if not is_locked(home):
        return False
    _wait_gone(home, holder, timeout)
    return True


def _shut_down(home: str, transport: SocketTransport, holder: Holder | None, timeout: float) -> None:
    try:
        answer = transport.request("POST", "/api/v1/shutdown", timeout=timeout)
        answer.read()
        if answer.status >= 400:
            raise EmbeddedError(f"the server of {home} refused to stop: HTTP {answer.status}")
    except WireError:
        pass  # it may end before it has answered; the lock tells
    finally:
        transport.close()
    _wait_gone(home, holder, timeout)


def _wait_gone(home: str, holder: Holder | None, timeout: float) -> None:
    """Wait until `holder` has let go of the home; another server may have it by then."""
    deadline = time.monotonic() + timeout
    while not wait_unlocked(home, _PROBE):
        now = read_holder(home)
        if holder and now and now["pid"] != holder["pid"]:
            return
        if time.monotonic() >= deadline:
            who = f"process {holder['pid']}" if holder else "a process"
            raise EmbeddedError(
                f"the server of {home} ({who}) did not end within {timeout:g} s", f"see {log_path(home)}"
            )


def is_locked(home: str) -> bool:
    """Whether a server has this home right now."""
    return not wait_unlocked(home, 0.0)


def wait_unlocked(home: str, timeout: float) -> bool:
    """Wait until no server has this home; False when one still has it after `timeout` seconds."""
    path = f"{home}/server/lock"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        return _lock(fd, path, timeout)
    finally:
        os.close(fd)


def log_path(home: str) -> str:
    """The log of the embedded server."""
    return f"{home}/server/server.log"


def server_command() -> list[str]:
    """The program and arguments of an embedded server."""
    return [sys.executable, "-m", "dstack.server", "--embedded"]


class _Launch:
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


def _spawn(home: str, start_lock: int) -> _Launch:
    """Start a server in its own session and return at once. The caller holds start.lock, which the relay inherits."""
    path = log_path(home)
    try:
        if os.path.exists(path) and os.path.getsize(path) > _MAX_LOG:
            os.replace(path, f"{path}.1")
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(path, error) from error
    log_start = os.lseek(log, 0, os.SEEK_END)
    receive, send = os.pipe()
    if os.fork() == 0:
        # Nothing else may stay open: a thread of the caller may be waiting for a lock, which a copy of its descriptor
        # would keep for as long as the relay lives.
        _close_except(log, send, start_lock)
        _relay(home, log, send)
    os.close(send)
    os.close(log)
    return _Launch(receive, home, log_start)


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


def _connect(home: str) -> SocketTransport | None:
    """A connection to whoever listens where the lock says, or else where a new server would."""
    holder = read_holder(home)
    transport = SocketTransport(holder["socket"] if holder else socket_path(home))
    try:
        transport.connect()
    except ConnectFailed:
        return None
    return transport


def _open(path: str) -> int:
    """A descriptor of a lock file, made if need be with its folders. Raises HomeUnusable."""
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(path, error) from error


def _lock(fd: int, path: str, timeout: float) -> bool:
    """flock `fd`, waiting up to `timeout` seconds. Closing `fd` lets go."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        if timeout <= 0:
            return False
    # flock has no time limit of its own, and signals belong to the caller: a thread waits. It has a descriptor of its
    # own, so that giving up cannot lock a descriptor number that was closed and opened again since.
    import threading

    def wait() -> None:
        own = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(own, fcntl.LOCK_SH)
        finally:
            os.close(own)

    deadline = time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        thread.join(left)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            continue
    return False


def _unusable(path: str, error: OSError) -> HomeUnusable:
    return HomeUnusable(
        f"cannot use {path}: {error.strerror or error}",
        "set DSTACK_HOME to a folder that can be written, or free some space there",
    )


def _numbers(version: str) -> tuple[int, ...]:
    """`1.2.3rc1` → (1, 2, 3): what decides which of two versions is newer."""
    numbers: list[int] = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
