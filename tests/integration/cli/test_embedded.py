"""Finding and starting the local server, with real processes that race and die."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dstack import embedded
from tests.integration.cli.conftest import Home


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait for what other processes do; there is no event to wait on."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def served_by(home: Home) -> int:
    return home.json("server", "status")[0]["pid"]


def test_the_first_command_starts_a_server_that_the_next_one_finds(home: Home) -> None:
    assert home.run("run", "hello").stdout == "hello\n"
    pid = home.holder()["pid"]
    assert home.run("run", "hello").stdout == "hello\n"
    assert served_by(home) == pid
    assert f"stopped process {pid}" in home.run("server", "stop").stdout
    assert (home.path / "server" / "lock").read_text() == ""
    assert home.run("server", "status", check=1).stdout == f"no server runs for {home.path}\n"
    assert home.json_of_nobody() == []
    assert "no server runs" in home.run("server", "stop").stdout


def test_commands_at_once_get_one_server_between_them(home: Home) -> None:
    running = [home.start("run", "hello") for _ in range(5)]
    for process in running:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, b"hello\n"), err.decode()
    assert home.serving_processes() == [served_by(home)]
    assert len(home.json("runs", "-a")) == 5


def test_a_socket_that_nobody_listens_on_is_replaced(home: Home) -> None:
    (home.path / "server").mkdir(parents=True)
    path = home.path / "server" / "server.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    assert path.exists()
    assert home.run("run", "hello").stdout == "hello\n"


def test_a_killed_server_is_replaced(home: Home) -> None:
    home.run("server", "start")
    first = home.holder()["pid"]
    os.kill(first, signal.SIGKILL)
    assert home.run("run", "hello").stdout == "hello\n"
    assert served_by(home) != first


def test_a_run_is_followed_across_the_death_of_the_server(home: Home, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    process = home.start("run", "gate", "--gate", str(gate))
    assert process.stdout is not None
    assert process.stdout.readline() == b"before\n"
    os.kill(home.holder()["pid"], signal.SIGKILL)
    gate.touch()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, b"after\n"), err.decode()


def test_an_idle_exit_loses_no_submission(home: Home) -> None:
    home.environment["DSTACK_SERVER_IDLE_EXIT"] = "0.2"
    names: set[str] = set()
    for pause in (0.0, 0.17, 0.2, 0.23, 0.3):
        # The moment of the exit is what is aimed at; there is nothing to wait for.
        time.sleep(pause)
        names.add(home.run("run", "-d", "hello").stdout.strip())
    home.environment["DSTACK_SERVER_IDLE_EXIT"] = "60"
    until(lambda: all(run["status"] == "done" for run in home.json("runs", "-a")), 60)
    assert {run["name"] for run in home.json("runs", "-a")} == names
    assert len(names) == 5


def test_a_killed_command_leaves_no_second_server_behind(home: Home) -> None:
    first = home.start("run", "-d", "hello")
    until((home.path / "server" / "server.log").exists)
    first.kill()
    first.communicate()
    assert home.run("run", "hello").stdout == "hello\n"
    assert home.serving_processes() == [served_by(home)]


def test_a_home_that_cannot_be_used_is_named(home: Home) -> None:
    (home.path.parent / "file").write_text("")
    home.environment["DSTACK_HOME"] = str(home.path.parent / "file" / "home")
    done = home.run("run", "hello", check=2)
    assert done.stderr == (
        f"error: cannot use {home.path.parent}/file/home/server/start.lock: Not a directory\n"
        "  hint: set DSTACK_HOME to a folder that can be written, or free some space there\n"
    )


def test_a_server_that_does_not_come_up_says_why(home: Home) -> None:
    home.environment["DSTACK_SERVER_IDLE_EXIT"] = "soon"
    done = home.run("run", "hello", check=2)
    assert "the local server did not start: DSTACK_SERVER_IDLE_EXIT=`soon` cannot be read as float" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_dies_at_once_is_told_of(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dstack.embedded.launch.server_command", lambda: [sys.executable, "-c", "import os; print('x'); os.abort()"]
    )
    with pytest.raises(embedded.StartFailed, match="by signal 6 before it was ready"):
        embedded.Connector(str(home.path)).connect()


def at_version(version: str) -> list[str]:
    code = (
        f"import dstack, runpy; dstack.__version__ = {version!r}; "
        "runpy.run_module('dstack.server', run_name='__main__', alter_sys=False)"
    )
    return [sys.executable, "-c", code, "--embedded"]


def test_a_newer_command_line_replaces_an_older_server(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    name = home.run("run", "-d", "gate", "--gate", str(gate)).stdout.strip()
    until(lambda: home.json("runs", name)[0]["status"] == "running")
    first = home.holder()
    for variable, value in home.environment.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr("dstack.__version__", "9.0.0")
    monkeypatch.setattr("dstack.embedded.launch.server_command", lambda: at_version("9.0.0"))
    transport = embedded.Connector(str(home.path)).connect()
    answer = transport.request("GET", "/api/v1/info")
    assert json.loads(answer.read())["version"] == "9.0.0"
    transport.close()
    assert home.holder()["pid"] != first["pid"]
    # The job went on, and the new server knows how it ended.
    monkeypatch.setattr("dstack.__version__", "0.1.0")
    gate.touch()
    connector = embedded.Connector(str(home.path))
    connector.accept_newer = True
    transport = connector.connect()

    def status() -> str:
        answer = transport.request("GET", f"/api/v1/projects/main/runs/{name}")
        return json.loads(answer.read())["status"]

    until(lambda: status() == "done")
    transport.close()
    done = home.run("runs", check=2)
    assert f"the server of {home.path} is dstack 9.0.0, and this is 0.1.0" in done.stderr
    assert "install dstack 9.0.0 or newer here" in done.stderr


def test_a_second_server_names_the_first(home: Home) -> None:
    home.run("server", "start")
    pid = home.holder()["pid"]
    with pytest.raises(embedded.LockHeld, match=f"process {pid} "):
        embedded.HomeLock.acquire(str(home.path), socket="/nowhere")
    second = subprocess.run(
        embedded.server_command(), env=home.environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert second.returncode == 1
    assert f"process {pid} " in second.stderr


@pytest.mark.parametrize("length", [10, 200])
def test_the_socket_path_always_fits(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    home = f"/tmp/{'x' * length}"
    path = embedded.socket_path(home)
    assert len(path) <= 100
    assert path.startswith(home) == (length == 10)
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        assert embedded.socket_path(home).startswith(f"{folder}/dstack-")
        embedded.make_socket_folder(embedded.socket_path(home))
        assert os.stat(os.path.dirname(embedded.socket_path(home))).st_mode & 0o777 == 0o700


def test_a_home_with_a_long_path_works(home: Home) -> None:
    home.path = home.path / ("long" * 30)
    home.environment["DSTACK_HOME"] = str(home.path)
    assert home.run("run", "hello").stdout == "hello\n"
    assert home.holder()["socket"].startswith(f"/tmp/dstack-{os.getuid()}/")
