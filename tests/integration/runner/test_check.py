"""What a machine has for jobs, and whether packages are found where jobs look for them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

WHEEL = "pip-99.0-py3-none-any.whl"


def ask(home: Path, **environment: str) -> dict[str, Any]:
    """The program's answer, with none of this machine's own settings for packages."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    kept |= {"HOME": str(home), "PIP_CONFIG_FILE": os.devnull, "no_proxy": "*", "NO_PROXY": "*", **environment}
    command = [sys.executable, "-m", "dstack.runner.check"]
    return json.loads(subprocess.run(command, env=kept, capture_output=True, check=True).stdout)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """A folder that is a package index with one package."""
    folder = tmp_path / "simple" / "pip"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        wheel.writestr("pip-99.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: pip\nVersion: 99.0\n")
        wheel.writestr("pip-99.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("pip-99.0.dist-info/RECORD", "")
    (folder / "index.html").write_text(f'<a href="{WHEEL}">{WHEEL}</a>')
    return folder.parent


def test_packages_are_found(index: Path, tmp_path: Path) -> None:
    found = ask(tmp_path, PIP_INDEX_URL=index.as_uri())
    assert found["index"] == {"where": index.as_uri(), "ok": True, "offline": False, "detail": ""}
    assert found["cpus"] >= 1
    assert found["memory"] > 1 << 20
    assert found["uv"]["version"]
    assert not (tmp_path / ".cache").exists(), "the person's own cache stays as it is"


def test_an_index_that_is_not_there(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = ask(tmp_path, UV_DEFAULT_INDEX=f"http://me:s3cret@127.0.0.1:{port}/simple", UV_HTTP_RETRIES="0")["index"]
    assert (found["where"], found["ok"]) == (f"http://127.0.0.1:{port}/simple", False)
    assert "refused" in found["detail"]
    assert "s3cret" not in found["detail"]


def test_settings_that_allow_no_index(tmp_path: Path) -> None:
    found = ask(tmp_path, PIP_NO_INDEX="1")["index"]
    assert (found["ok"], found["offline"]) == (True, True)


def test_how_inputs_reach_jobs_is_found_out_where_a_runner_has_worked(index: Path, tmp_path: Path) -> None:
    """It is tried in the runner's folder, and leaves nothing there."""
    home = tmp_path / "home"
    found = {"PIP_INDEX_URL": index.as_uri(), "DSTACK_HOME": str(home)}
    assert ask(tmp_path, **found)["inputs"] is None
    (home / "runner").mkdir(parents=True)
    inputs = ask(tmp_path, **found)["inputs"]
    assert inputs["way"] in ("reflink", "overlay", "direct")
    assert (inputs["why"] == "") == (inputs["way"] == "reflink" and os.geteuid() == 0)
    assert sorted(path.name for path in home.rglob("*")) == ["attempts", "cache", "runner"]
    assert ask(tmp_path, **found, DSTACK_RUNNER_INPUTS_WAY="direct")["inputs"]["way"] == "direct"
