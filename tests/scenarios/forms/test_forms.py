"""Every form of a workflow runs and gives the result that it should: see `forms.py` for the list of them."""

from __future__ import annotations

import http.server
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.scenarios.forms.forms import ROWS
from tests.scenarios.forms.session import Command, read
from tests.scenarios.person import DSTACK, person_environment

FOLDER = Path(__file__).parent / "rows"
CARDS = "Tesla K80, 11441\\nTesla V100-SXM2-16GB, 16160\\nTesla V100-SXM2-16GB, 16160\\n"
SOME_TEXT = (".yaml", ".yml", ".txt")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A person's environment, with one server for all rows, on a machine that says it has three GPUs."""
    root = tmp_path_factory.mktemp("forms")
    tools = root / "tools"
    tools.mkdir()
    probe = tools / "nvidia-smi"
    probe.write_text(f"#!/bin/sh\nprintf '{CARDS}'\n")
    probe.chmod(0o755)
    environment = person_environment(root)
    environment["PATH"] = f"{tools}:{environment['PATH']}"
    yield environment
    subprocess.run([DSTACK, "server", "stop"], env=environment, cwd=root, capture_output=True, check=True)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """The row's folder, served over HTTP."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "repo"))
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("row", sorted(ROWS))
def test_row(row: str, environment: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest) -> None:
    repo = tmp_path / "repo"
    shutil.copytree(FOLDER / row, repo)
    text = (repo / "session.txt").read_text()
    here = {"@python@": f"{sys.version_info.major}.{sys.version_info.minor}"}
    if "@http@" in text + "".join(file.read_text() for file in repo.rglob("workflows.yaml")):
        here["@http@"] = request.getfixturevalue("address")
    for file in repo.rglob("*"):
        if file.suffix in SOME_TEXT:
            fill(file, here)
    session = read((repo / "session.txt").read_text())
    (repo / "session.txt").unlink()
    subprocess.run(["git", "init", "--quiet"], cwd=repo, env=environment, check=True)
    assert session, "a row has commands"
    for command in session:
        check(command, repo, environment)


def fill(file: Path, values: dict[str, str]) -> None:
    text = file.read_text()
    for name, value in values.items():
        text = text.replace(name, value)
    file.write_text(text)


def check(command: Command, repo: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", "-c", command.line],
        cwd=repo,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = f"{command.line}\nended with {done.returncode}:\n{done.stdout}{done.stderr}"
    assert done.returncode == command.code, said
    assert done.stdout.splitlines() == command.prints, said
    for line in command.complains:
        assert line in done.stderr, f"not told: {line}\n{said}"


def test_every_form_has_a_folder_and_every_folder_a_form() -> None:
    assert {folder.name for folder in FOLDER.iterdir()} == ROWS.keys()


def test_every_row_runs_something() -> None:
    for row in ROWS:
        commands = read((FOLDER / row / "session.txt").read_text())
        assert any("dstack run" in command.line for command in commands), row
        assert any(command.prints or command.code for command in commands), f"{row} shows no result"
