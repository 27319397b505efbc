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
    ├── VersionConflict  a newer server is running
    └── LockHeld         a server that was to be started found another one
"""

from __future__ import annotations

from dstack.embedded.connector import (
    Connector,
    stop,
)
from dstack.embedded.home import (
    EmbeddedError,
    HomeLock,
    HomeUnusable,
    LockHeld,
    StartFailed,
    VersionConflict,
    home_folder,
    is_at,
    is_locked,
    log_path,
    make_socket_folder,
    read_holder,
    socket_path,
    wait_unlocked,
)
from dstack.embedded.launch import (
    server_command,
)

__all__ = [
    "Connector",
    "EmbeddedError",
    "HomeLock",
    "HomeUnusable",
    "LockHeld",
    "StartFailed",
    "VersionConflict",
    "home_folder",
    "is_at",
    "is_locked",
    "log_path",
    "make_socket_folder",
    "read_holder",
    "server_command",
    "socket_path",
    "stop",
    "wait_unlocked",
]
