"""Signals to the command that follows a run (F6): none of them ends the run by itself."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.home import DEADLINE, DSTACK, LINES, Gated, Home, assert_lines


class Terminal:
    """`dstack run gated` with a terminal of its own, and a person who types."""

    def __init__(self, home: Home) -> None:
        self._keys, inside = os.openpty()
        self._shown = b""
        self.process = subprocess.Popen(
            ["setsid", "--ctty", DSTACK, "run", "gated"],
            cwd=home.repo,
            env=home.environment | {"TERM": "xterm"},
            stdin=inside,
            stdout=inside,
            stderr=inside,
        )
        os.close(inside)

    def types(self, text: str) -> None:
        os.write(self._keys, text.encode())

    def sees(self, text: str) -> None:
        """Wait until `text` is shown, after what was seen before."""
        deadline = time.monotonic() + DEADLINE
        while text.encode() not in self._shown:
            ready = select.select([self._keys], [], [], max(0.0, deadline - time.monotonic()))[0]
            assert ready, f"{text!r} was not shown: {self._shown[-2000:]!r}"
            self._shown += self._read()
        self._shown = self._shown.partition(text.encode())[2]

    def ends(self, code: int) -> None:
        """Wait for the command's end."""
        deadline = time.monotonic() + DEADLINE
        while self.process.poll() is None and time.monotonic() < deadline:
            if self._keys >= 0 and select.select([self._keys], [], [], 0.05)[0]:
                self._shown += self._read()
        assert self.process.returncode == code, self._shown[-2000:]

    def close(self) -> None:
        """The window is closed."""
        if self._keys >= 0:
            os.close(self._keys)
            self._keys = -1

    def _read(self) -> bytes:
        try:
            return os.read(self._keys, 65536)
        except OSError:  # the other side is closed
            time.sleep(0.01)
            return b""


@pytest.fixture
def job(home: Home) -> Gated:
    return Gated(home)


@pytest.fixture
def terminal(home: Home, job: Gated) -> Iterator[Terminal]:
    made = Terminal(home)
    yield made
    made.close()
    if made.process.poll() is None:
        made.process.kill()
    made.process.wait()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, -signal.SIGHUP)]
)
def test_without_a_terminal_it_detaches(home: Home, job: Gated, number: signal.Signals, code: int) -> None:
    following = home.start("run", "gated")
    job.begun()
    following.send_signal(number)
    done = home.ends(following, code)
    name = the_run(home)
    if number != signal.SIGHUP:
        assert f"Detached: {name} goes on" in done.stderr
    goes_on(home, job, name)


def test_interrupted_before_it_was_submitted(home: Home, job: Gated) -> None:
    """While the server starts there is nothing to detach from."""
    home.folder.mkdir()
    following = home.start("run", "gated")
    home.wait(lambda: (home.folder / "server" / "server.log").exists() or None, "the server is being started")
    following.send_signal(signal.SIGINT)
    home.ends(following, 130)
    for run in home.wait(lambda: [home.runs()], "the server is up"):
        if run:  # it was quicker than the signal
            goes_on(home, job, run[0]["name"])


def test_asked_and_detached(home: Home, job: Gated, terminal: Terminal) -> None:
    job.begun()
    terminal.types("\x03")
    terminal.sees("[d]etach, [s]top it, [c]ontinue to follow?")
    terminal.types("d\n")
    terminal.sees("Detached:")
    terminal.ends(130)
    goes_on(home, job, the_run(home))


def test_asked_and_continued(home: Home, job: Gated, terminal: Terminal) -> None:
    job.begun()
    terminal.types("\x03")
    terminal.sees("[c]ontinue to follow?")
    terminal.types("c\n")
    job.go()
    terminal.sees("line 200")
    terminal.ends(0)
    goes_on(home, job, the_run(home))


def test_asked_and_stopped(home: Home, job: Gated, terminal: Terminal) -> None:
    """It is followed to its end, which is the stop."""
    job.begun()
    terminal.types("\x03")
    terminal.sees("[s]top it")
    terminal.types("s\n")
    terminal.sees("Stopping")
    terminal.ends(130)
    assert home.run(the_run(home))["status"] == "stopped"


def test_interrupted_twice(home: Home, job: Gated, terminal: Terminal) -> None:
    job.begun()
    terminal.types("\x03")
    terminal.sees("(Ctrl-C again stops)")
    terminal.types("\x03")
    terminal.sees("Stopping")
    terminal.ends(130)
    home.wait_status(the_run(home), "stopped")


def test_terminal_closed(home: Home, job: Gated, terminal: Terminal) -> None:
    job.begun()
    terminal.close()
    terminal.ends(-signal.SIGHUP)
    goes_on(home, job, the_run(home))


def the_run(home: Home) -> str:
    [run] = home.runs()
    return run["name"]


def goes_on(home: Home, job: Gated, name: str) -> None:
    """The run ends as it would have, with its whole log."""
    job.go()
    home.wait_status(name, "done")
    assert_lines(home.log(name)["gated"].decode(), LINES)


def test_reader_of_the_output_leaves(home: Home, job: Gated, tmp_path: Path) -> None:
    """`dstack run … | head`: the command ends, the run goes on."""
    following = home.start("run", "gated")
    job.begun()
    assert following.stdout is not None
    following.stdout.close()
    job.go()
    assert following.wait(DEADLINE) == 141
    following.stdout = None
    goes_on(home, job, the_run(home))
