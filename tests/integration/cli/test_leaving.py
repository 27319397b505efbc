"""Ctrl-C, signals and closed terminals: the run goes on unless the person says otherwise."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cli.conftest import DSTACK, TIMEOUT, Home


@pytest.fixture
def gate(request: pytest.FixtureRequest, shared_home: Home) -> Iterator[Path]:
    """The file that lets a `gate` run end. It stays after the test: the job may look only then."""
    gate = shared_home.path.parent / f"gate-{request.node.name}"
    yield gate
    gate.touch()


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, home: Home, *words: str) -> None:
        self.master, slave = pty.openpty()

        def take_terminal() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [DSTACK, *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**home.environment, "TERM": "xterm", "NO_COLOR": "1"},
            cwd=home.repository,
            preexec_fn=take_terminal,  # noqa: PLW1509 - one thread
        )
        os.close(slave)
        self.text = ""

    def expect(self, pattern: str) -> str:
        """Read until `pattern` appears; what matched."""
        deadline = time.monotonic() + TIMEOUT
        while (found := re.search(pattern, self.text)) is None:
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{pattern!r} does not come; so far: {self.text!r}"
            try:
                piece = os.read(self.master, 65536)
            except OSError:
                piece = b""  # the terminal's last user has left
            assert piece, f"{pattern!r} did not come; all there was: {self.text!r}"
            self.text += piece.decode()
        return found[0]

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def end(self) -> int:
        self.expect_end()
        return self.process.wait(TIMEOUT)

    def expect_end(self) -> None:
        while True:
            try:
                piece = os.read(self.master, 65536)
            except OSError:
                return
            if not piece:
                return
            self.text += piece.decode()


def started(terminal: Terminal) -> str:
    """The name of the run that a terminal follows."""
    terminal.expect("before")
    return terminal.expect(r"[a-z]+-[a-z]+-\d+")


def status(home: Home, name: str) -> str:
    return home.json("runs", name)[0]["status"]


def test_ctrl_c_asks_and_detaches(shared_home: Home, gate: Path) -> None:
    terminal = Terminal(shared_home, "run", "gate", "--gate", str(gate))
    name = started(terminal)
    terminal.type("\x03")
    terminal.expect(rf"{name} goes on by itself\. \[d\]etach, \[s\]top it, \[c\]ontinue")
    terminal.type("d\r")
    assert terminal.end() == 130
    assert f"dstack logs -f {name}" in terminal.text
    assert status(shared_home, name) == "running"
    gate.touch()
    assert shared_home.run("logs", "-f", name).stdout == "before\nafter\n"


def test_ctrl_c_and_going_on_shows_everything_once(shared_home: Home, gate: Path) -> None:
    terminal = Terminal(shared_home, "run", "gate", "--gate", str(gate))
    name = started(terminal)
    terminal.type("\x03")
    terminal.expect("ontinue to follow")
    gate.touch()
    terminal.type("c\r")
    terminal.expect(f"{name} done")
    assert terminal.end() == 0
    assert (terminal.text.count("before"), terminal.text.count("after")) == (1, 1)


def test_ctrl_c_and_stop(shared_home: Home, gate: Path) -> None:
    terminal = Terminal(shared_home, "run", "gate", "--gate", str(gate))
    name = started(terminal)
    terminal.type("\x03")
    terminal.expect("ontinue to follow")
    terminal.type("s\r")
    terminal.expect(f"{name} stopped")
    assert terminal.end() == 130
    assert status(shared_home, name) == "stopped"


def test_ctrl_c_twice_stops(shared_home: Home, gate: Path) -> None:
    terminal = Terminal(shared_home, "run", "gate", "--gate", str(gate))
    name = started(terminal)
    terminal.type("\x03")
    terminal.expect("ontinue to follow")
    terminal.type("\x03")
    assert terminal.end() == 130
    assert shared_home.run("logs", "-f", name).stdout == "before\n"
    assert status(shared_home, name) == "stopped"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_without_a_terminal_detach(shared_home: Home, gate: Path, number: int, code: int) -> None:
    process = shared_home.start("run", "gate", "--gate", str(gate))
    assert process.stdout is not None
    assert process.stdout.readline() == b"before\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == code
    [name] = re.findall(r"Detached: (\S+) goes on", err.decode())
    assert status(shared_home, name) == "running"


def test_a_closed_terminal_leaves_the_run_running(shared_home: Home, gate: Path) -> None:
    terminal = Terminal(shared_home, "run", "gate", "--gate", str(gate))
    name = started(terminal)
    os.close(terminal.master)
    assert terminal.process.wait(TIMEOUT) in (-signal.SIGHUP, 141)
    assert status(shared_home, name) == "running"


def test_a_killed_command_leaves_the_run_running(shared_home: Home, gate: Path) -> None:
    process = shared_home.start("run", "gate", "--gate", str(gate))
    assert process.stdout is not None
    assert process.stdout.readline() == b"before\n"
    process.kill()
    process.communicate()
    name = shared_home.json("runs")[0]["name"]
    gate.touch()
    assert shared_home.run("logs", "-f", name).stdout == "before\nafter\n"


def test_a_pipe_that_nobody_reads_leaves_the_run_running(shared_home: Home, gate: Path) -> None:
    process = shared_home.start("run", "gate", "--gate", str(gate))
    assert process.stdout is not None
    assert process.stdout.readline() == b"before\n"
    process.stdout.close()
    gate.touch()
    assert process.wait(TIMEOUT) == 141
    assert process.stderr is not None
    name = re.search(r"Detached: (\S+) goes on", process.stderr.read().decode())
    process.stderr.close()
    assert name is not None
    assert shared_home.run("logs", "-f", name[1]).stdout == "before\nafter\n"
