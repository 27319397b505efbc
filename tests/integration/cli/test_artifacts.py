"""Artifacts with a real server: of a job that still runs, uploaded, given on, and from Python."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from tests.integration.cli.conftest import TIMEOUT, Home
from tests.integration.cli.test_flows import documented

WORKFLOWS = """\
workflows:
  - name: train
    provider: bash
    deps: [":raw"]
    commands:
      - cat data/raw > out/model
      - 'while [ ! -e "$GATE" ]; do sleep 0.05; done'
      - echo more >> out/model
    artifacts: [out]
    environment:
      GATE: ${{ gate }}
"""
PROGRAM = """
import sys
from dstack import artifacts
with artifacts.open(run=sys.argv[1], path="out/model") as file:
    file.seek(-5, 2)
    print(file.read().decode().strip(), [item["path"] for item in artifacts.list(tag="raw", path="data")])
"""


def test_from_an_upload_to_a_file_read_in_python(home: Home, tmp_path: Path) -> None:
    (home.repository / ".dstack" / "workflows.yaml").write_text(WORKFLOWS)
    (home.repository / "data").mkdir()
    (home.repository / "data" / "raw").write_text("raw\n")
    uploaded = home.run("artifacts", "upload", "data", "-t", "raw").stdout.strip()
    name = home.run("run", "-d", "train", "--gate", str(tmp_path / "gate")).stdout.strip()

    deadline = time.monotonic() + TIMEOUT
    while not (live := home.json("artifacts", "log", name)):
        assert time.monotonic() < deadline, "nothing was saved while the job ran"
        time.sleep(0.1)
    assert live[0]["live"]
    assert home.run("artifacts", "cat", f"{name}:out/model").stdout == "raw\n"
    home.run("artifacts", "download", name, "-o", str(tmp_path / "now"))
    assert (tmp_path / "now/out/model").read_text() == "raw\n"

    (tmp_path / "gate").touch()
    home.run("logs", "-f", name)
    assert home.run("artifacts", "cat", f"{name}:out/model").stdout == "raw\nmore\n"
    first = live[-1]["manifest_id"]
    assert home.run("artifacts", "cat", f"{name}@{first[:8]}:out/model").stdout == "raw\n"
    assert home.run("artifacts", "diff", f"{name}@{first[:8]}", name, check=1).stdout == "~ out/model  4B -> 9B\n"
    [link] = home.json("lineage", name)
    assert (link["direction"], link["source"], link["tag"], link["path"]) == ("input", uploaded, "raw", "data")
    [link] = home.json("lineage", ":raw")
    assert (link["direction"], link["run"], link["step"]) == ("use", name, "train")

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name],
        capture_output=True, text=True, check=True, env=home.environment, cwd=home.repository, timeout=TIMEOUT,
    )  # fmt: skip
    assert done.stdout == "more ['data/raw']\n"


def test_the_fields_of_files_are_those_that_are_promised(shared_home: Home) -> None:
    name = shared_home.run("run", "-d", "save").stdout.strip()
    shared_home.run("logs", "-f", name)
    for item in json.loads(shared_home.run("artifacts", "list", name, "-l", "--json").stdout):
        assert documented("file") <= set(item) | {"file", "symlink", "directory"}
