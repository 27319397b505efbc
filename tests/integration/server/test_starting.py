"""A server and whoever started it: told once, whatever happens before or after, and the home is free where it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dstack import embedded

PROGRAM = """
import sys
from dstack.server import __main__ as program
from dstack.snapshots.errors import StoreGone

def away(*_):
    raise StoreGone("the disk with the store is not there")

async def serve(self, door, ready):
    {serve}

program.BootCheck.look = {look}
program.Server.run = serve
code = program.main()
assert code is not None
sys.exit(code)
"""


class Starting:
    """A server that was started, and the pipe on which it says whether it is ready."""

    def __init__(self, process: subprocess.Popen[str], pipe: int) -> None:
        self._process = process
        self.pipe = pipe

    def said(self) -> str:
        """All that it has to say, as soon as it has said it."""
        with open(self.pipe, encoding="utf-8") as file:
            return file.read()

    def go_on(self) -> tuple[int, str, str]:
        """Let a server that waits go on; its exit code, and what it wrote."""
        out, err = self._process.communicate(timeout=60)
        return self._process.returncode, out, err


@contextmanager
def starting(home: Path, serve: str = "pass", look: str = "lambda self: 0") -> Iterator[Starting]:
    receive, send = os.pipe()
    command = [sys.executable, "-c", PROGRAM.format(serve=serve, look=look), "--embedded", "--ready-fd", str(send)]
    with subprocess.Popen(
        command,
        env={**os.environ, "DSTACK_HOME": str(home)},
        pass_fds=[send],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(send)
        yield Starting(process, receive)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    made.mkdir()
    return made


def test_why_it_does_not_start_is_said_when_the_home_is_free(home: Path) -> None:
    with starting(home, serve="ready()", look="away") as server:
        assert server.said() == "the disk with the store is not there"
        embedded.HomeLock.acquire(home, socket="mine").release()
        code, _, err = server.go_on()
    assert (code, "Traceback" in err) == (1, False)
    assert "error: the disk with the store is not there\n" in err


def test_what_fails_after_it_is_up_is_not_said_to_who_has_gone(home: Path) -> None:
    with starting(home, serve="ready(); sys.stdin.read(); away()") as server:
        assert server.said() == "ok\n", "and nothing keeps the pipe open"
        assert embedded.is_locked(str(home))
        code, _, err = server.go_on()
    assert (code, "Traceback" in err) == (1, False)
    assert "error: the disk with the store is not there\n" in err
    assert not embedded.is_locked(str(home))


def test_it_serves_though_whoever_started_it_was_killed(home: Path) -> None:
    with starting(home, serve="sys.stdin.read(); ready(); print('served')") as server:
        os.close(server.pipe)
        code, out, err = server.go_on()
    assert (code, out) == (0, "served\n"), err


def test_it_says_why_in_its_log_though_whoever_started_it_was_killed(home: Path) -> None:
    with starting(home, look="lambda self: sys.stdin.read() or away()") as server:
        os.close(server.pipe)
        code, _, err = server.go_on()
    assert (code, "Traceback" in err) == (1, False)
    assert "error: the disk with the store is not there\n" in err
