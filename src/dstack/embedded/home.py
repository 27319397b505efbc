"""The home folder: where its server listens, and the lock that says who its server is."""

from __future__ import annotations

import fcntl
import json
import os
import time

import dstack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self, TypedDict

    class Holder(TypedDict):
        """What a server writes into the lock that it holds."""

        pid: int
        version: str
        socket: str
        started_at: int


PROBE = 0.5
"""Seconds; whoever asks whether a home is locked has the lock for a moment, never for as long as this."""
_MAX_SOCKET_PATH = 100  # bytes; the kernel's limit is 107 on Linux, 103 on macOS


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
            raise unusable(folder, error) from error
        found = os.lstat(folder)
        if found.st_uid != os.getuid():
            raise HomeUnusable(f"{folder} belongs to user {found.st_uid}", "remove it, or set XDG_RUNTIME_DIR")
        if found.st_mode & 0o077:
            os.chmod(folder, 0o700)


def read_holder(home: str | os.PathLike[str]) -> Holder | None:
    """What the last server wrote into the lock; it may be gone since. None where it cannot be read."""
    try:
        with open(lock_path(home), "rb") as file:
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

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self._path = path
        self._since = time.time_ns() // 1000

    @classmethod
    def acquire(cls, home: str | os.PathLike[str], *, socket: str) -> Self:
        """Take the lock. Raises LockHeld naming the holder, HomeUnusable."""
        home = os.fspath(home)
        path = lock_path(home)
        fd = open_lock(path)
        # Not at once: whoever asks whether the home is locked has the lock for a moment.
        if not take_lock(fd, path, PROBE):
            os.close(fd)
            raise LockHeld(home, read_holder(home))
        lock = cls(fd, path)
        try:
            lock.tell(socket)
        except OSError as error:
            os.close(fd)
            raise unusable(path, error) from error
        return lock

    def tell(self, socket: str) -> None:
        """Write down who has the home, and where it listens. Raises OSError."""
        holder = {"pid": os.getpid(), "version": dstack.__version__, "socket": socket, "started_at": self._since}
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps(holder).encode() + b"\n", 0)

    def is_lost(self) -> bool:
        """Whether the home was removed, or is another's by now."""
        return not is_at(self._fd, self._path)

    def release(self) -> None:
        """Let go, leaving the lock empty: nobody serves this home."""
        os.ftruncate(self._fd, 0)
        os.close(self._fd)


def is_locked(home: str) -> bool:
    """Whether a server has this home right now."""
    return not wait_unlocked(home, 0.0)


def wait_unlocked(home: str, timeout: float) -> bool:
    """Wait until no server has this home; False when one still has it after `timeout` seconds."""
    path = lock_path(home)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError as error:
        raise unusable(path, error) from error
    try:
        return take_lock(fd, path, timeout)
    finally:
        os.close(fd)


def lock_path(home: str | os.PathLike[str]) -> str:
    """What its server holds for its life: there from the first server on, as long as the home is."""
    return f"{os.fspath(home)}/server/lock"


def log_path(home: str) -> str:
    """The log of the embedded server."""
    return f"{home}/server/server.log"


def open_lock(path: str) -> int:
    """A descriptor of a lock file, made if need be with its folders. Raises HomeUnusable."""
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise unusable(path, error) from error


def is_at(fd: int, path: str | os.PathLike[str]) -> bool:
    """Whether the open file `fd` is still the one at `path`: a lock on a file that was removed keeps nobody out."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def take_lock(fd: int, path: str, timeout: float) -> bool:
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


def unusable(path: str, error: OSError) -> HomeUnusable:
    return HomeUnusable(
        f"cannot use {path}: {error.strerror or error}",
        "set DSTACK_HOME to a folder that can be written, or free some space there",
    )
