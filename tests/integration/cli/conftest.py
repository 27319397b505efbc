"""The command line as a program, with a home and a server of its own."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

DSTACK = str(Path(sys.executable).with_name("dstack"))
TIMEOUT = 60

WORKFLOWS = """\
workflows:
  - name: hello
    provider: bash
    commands:
      - echo hello
  - name: fail
    provider: bash
    commands:
      - echo oops >&2
      - exit 7
  - name: save
    provider: bash
    commands:
      - echo 42 > out/answer
      - ln -s answer out/link
    artifacts: [out]
  - name: gate
    provider: bash
    # Says a line, waits until the file that GATE names is there, says another.
    commands:
      - 'echo before; while [ ! -e "$GATE" ]; do sleep 0.05; done; echo after'
    environment:
      GATE: ${{ gate }}
"""
VARIABLES = """\
variables:
  gate:
    gate: /nonexistent
"""


class Home:
    """One `DSTACK_HOME`, one repository, and the environment that names them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "home"
        self.repository = folder / "project"
        (self.repository / ".dstack").mkdir(parents=True)
        (self.repository / ".dstack" / "workflows.yaml").write_text(WORKFLOWS)
        (self.repository / ".dstack" / "variables.yaml").write_text(VARIABLES)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DSTACK_", "XDG_"))}
        self.environment = {
            **kept,
            "DSTACK_HOME": str(self.path),
            # A local runner ends soon after its server, so that no test leaves one behind.
            "DSTACK_RUNNER_ORPHAN_EXIT": "0.5",
            "DSTACK_SERVER_STOP_GRACE": "2",
        }

    def start(self, *words: str, **more: Any) -> subprocess.Popen[bytes]:
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        options |= {"env": self.environment, "cwd": self.repository, **more}
        return cast(subprocess.Popen[bytes], subprocess.Popen([DSTACK, *words], **options))

    def run(self, *words: str, check: int | None = 0, **more: Any) -> subprocess.CompletedProcess[str]:
        with self.start(*words, **more) as process:
            try:
                out, err = process.communicate(timeout=TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()  # else leaving the block would wait for it for ever
                raise
        if check is not None:
            assert process.returncode == check, f"{words}: {process.returncode}\n{out.decode()}\n{err.decode()}"
        return subprocess.CompletedProcess(words, process.returncode, out.decode(), err.decode())

    def json(self, *words: str) -> list[Any]:
        return json.loads(self.run(*words, "--json").stdout)

    def holder(self) -> dict[str, Any]:
        return json.loads((self.path / "server" / "lock").read_text())

    def json_of_nobody(self) -> list[Any]:
        return json.loads(self.run("server", "status", "--json", check=1).stdout)

    def json_of_doctor(self) -> list[Any]:
        """Whatever its exit code: a test machine may have no package index."""
        return json.loads(self.run("doctor", "--json", check=None).stdout)

    def serving_processes(self) -> list[int]:
        """The processes that are servers of this home."""
        found: list[int] = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
                environment = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue  # ended meanwhile
            if b"dstack.server" in command and f"DSTACK_HOME={self.path}".encode() in environment:
                found.append(int(entry.name))
        return found

    def close(self) -> None:
        """End what runs, then the server, and wait for the runner to end by itself."""
        if self.run("server", "status", check=None).returncode == 0:
            names = [run["name"] for run in self.json("runs") if run["finished_at"] is None]
            for name in names:
                self.run("stop", "-y", "--abort", name)
            for name in names:
                self.run("logs", "-f", name)
        self.run("server", "stop", check=None)
        lock = self.path / "runner" / "lock"
        if lock.exists():
            with open(lock) as file:
                _flock(file.fileno())


def _flock(fd: int) -> None:
    import threading

    waiting = threading.Thread(target=fcntl.flock, args=(fd, fcntl.LOCK_SH), daemon=True)
    waiting.start()
    waiting.join(TIMEOUT)
    assert not waiting.is_alive(), "the local runner did not end"


@pytest.fixture
def home() -> Iterator[Home]:
    """A home that nobody has used."""
    yield from make_home()


@pytest.fixture(scope="module")
def shared_home() -> Iterator[Home]:
    """A home for the tests of one module, with its server up."""
    for home in make_home():
        home.run("server", "start")
        yield home


def make_home() -> Iterator[Home]:
    # pytest's own folders have names too long for a socket.
    folder = Path(tempfile.mkdtemp(prefix="dstack-test-"))
    home = Home(folder)
    yield home
    home.close()
    shutil.rmtree(folder)
