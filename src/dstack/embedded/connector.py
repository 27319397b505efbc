"""Connections to the server of a home, which is started, replaced or waited for as need be."""

from __future__ import annotations

import os
import time

import dstack
from dstack.client.wire import ConnectFailed, SocketTransport, WireError
from dstack.embedded.home import (
    PROBE,
    EmbeddedError,
    StartFailed,
    VersionConflict,
    home_folder,
    is_locked,
    lock_path,
    log_path,
    open_lock,
    read_holder,
    socket_path,
    take_lock,
    wait_unlocked,
)
from dstack.embedded.launch import START_TIMEOUT, Launch, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dstack.embedded.home import Holder

STOP_TIMEOUT = 60.0
_MAX_LAUNCHES = 3
_TICK = 0.1


class Connector:
    """Connections to the server of one home. `connect` may be called again whenever a connection broke."""

    def __init__(self, home: str | None = None) -> None:
        self.home = home or home_folder()
        self.accept_newer = False
        """Whether a newer server is good enough: one that took over while a run is followed is."""
        self._launch: Launch | None = None
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
                # Where another server took the home at the same moment, that one will do. One that has just said why
                # it ends may have the home for a moment longer.
                if failure is not None and wait_unlocked(self.home, PROBE):
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

    def _start(self, *, wait: bool) -> Launch | None:
        """Start a server unless somebody else serves or is about to; then wait for that to change, if asked to."""
        path = f"{self.home}/server/start.lock"
        start_lock = open_lock(path)
        try:
            if not take_lock(start_lock, path, START_TIMEOUT if wait else 0.0):
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
            return spawn(self.home, start_lock)
        finally:
            os.close(start_lock)

    def _nobody(self) -> StartFailed:
        holder = read_holder(self.home)
        who = f"process {holder['pid']} has" if holder else "a process has"
        return StartFailed(
            f"{who} {lock_path(self.home)} but does not listen on {holder['socket'] if holder else 'its socket'}",
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
    while not wait_unlocked(home, PROBE):
        now = read_holder(home)
        if holder and now and now["pid"] != holder["pid"]:
            return
        if time.monotonic() >= deadline:
            who = f"process {holder['pid']}" if holder else "a process"
            raise EmbeddedError(
                f"the server of {home} ({who}) did not end within {timeout:g} s", f"see {log_path(home)}"
            )


def _connect(home: str) -> SocketTransport | None:
    """A connection to whoever listens where the lock says, or else where a new server would.

    None of a home without a lock: who still listens there had a home of this name that was removed.
    """
    holder = read_holder(home)
    if holder is None and not os.path.exists(lock_path(home)):
        return None
    transport = SocketTransport(holder["socket"] if holder else socket_path(home))
    try:
        transport.connect()
    except ConnectFailed:
        return None
    return transport


def _numbers(version: str) -> tuple[int, ...]:
    """`1.2.3rc1` → (1, 2, 3): what decides which of two versions is newer."""
    numbers: list[int] = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
