"""Fault points, armed by the environment as the fault tests do it: in a process of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dstack.domain import faults

PROGRAM = """
import os, sys
from dstack.domain import faults

faults.declare("first", "second", "move:before", "move:after")
for name in sys.argv[2:]:
    if name == "move":
        faults.rename(sys.argv[1] + "/source", sys.argv[1] + "/target", "move")
    else:
        faults.point(name)
    print(name, flush=True)
"""


def run(folder: Path, *names: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DSTACK_")}
    command = [sys.executable, "-c", PROGRAM, str(folder), *names]
    return subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "source").write_text("whole")
    return tmp_path


def test_an_armed_point_kills_at_its_nth_turn(folder: Path) -> None:
    ended = run(folder, "first", "second", "second", "second", DSTACK_FAULT="second:2")
    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout.split() == ["first", "second"]
    assert run(folder, "first", DSTACK_FAULT="first").returncode == -signal.SIGKILL


@pytest.mark.parametrize(("point", "left"), [("move:before", "source"), ("move:after", "target")])
def test_a_rename_has_a_point_on_either_side(folder: Path, point: str, left: str) -> None:
    assert run(folder, "move", DSTACK_FAULT=point).returncode == -signal.SIGKILL
    assert [path.name for path in folder.iterdir()] == [left]
    assert (folder / left).read_text() == "whole"


def test_the_log_names_each_point_once(folder: Path) -> None:
    log = folder / "log"
    ended = run(folder, "first", "move", "first", DSTACK_FAULT_LOG=str(log))
    assert ended.returncode == 0
    assert log.read_text().split() == ["first", "move:before", "move:after"]


def test_an_undeclared_point_is_an_error_when_anything_is_armed(folder: Path) -> None:
    ended = run(folder, "third", DSTACK_FAULT="first")
    assert ended.returncode == 1
    assert "fault point 'third' is not declared" in ended.stderr


def test_nothing_happens_unarmed(tmp_path: Path) -> None:
    (tmp_path / "source").write_text("whole")
    faults.rename(tmp_path / "source", tmp_path / "target", "never declared")
    assert (tmp_path / "target").read_text() == "whole"
