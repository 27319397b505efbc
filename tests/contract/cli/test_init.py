"""`dstack init`: what it proposes, writes and tells the server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dstack.client.listing import Listing
from dstack.client.tree import look
from tests.contract.cli.conftest import Dstack
from tests.contract.cli.test_commands import ask
from tests.support.stub_api import Reply, StubApi


@pytest.fixture
def project(stub: StubApi, tmp_path: Path, dstack: Dstack, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a script, and the current one."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "train.py").write_text("import os\nos.makedirs('out')\n")
    stub.on("POST …/repositories", Reply(body={"key": str(folder), "name": "mine"}))
    stub.on("POST …/validate", Reply(body={"diagnostics": [], "workflows": [{"name": "train"}]}))
    monkeypatch.chdir(folder)
    return folder


def test_it_shows_asks_and_writes(
    stub: StubApi, dstack: Dstack, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask("n\n", monkeypatch)
    done = dstack("init")
    assert (done.code, "  - name: train" in done.out, (project / ".dstack").exists()) == (1, True, False)
    ask("y\n", monkeypatch)
    done = dstack("init")
    assert done.code == 0
    assert (project / ".dstack" / "workflows.yaml").read_text() == done.out
    assert done.err.endswith("mine is known to the server, with 1 workflow.\nNext: dstack run train\n")
    [call] = stub.named("POST …/repositories")
    assert (call.json["key"], call.json["name"]) == (str(project), "mine")
    assert stub.named("POST …/validate")[0].json["files"] == {".dstack/workflows.yaml": done.out}


def test_without_a_terminal_nothing_is_written_unasked(dstack: Dstack, project: Path) -> None:
    done = dstack("init")
    assert (done.code, "dstack init -y" in done.err, (project / ".dstack").exists()) == (2, True, False)
    assert dstack("init", "-y").code == 0
    assert (project / ".dstack" / "workflows.yaml").exists()


def test_editors_get_schemas_that_git_and_runs_pass_over(dstack: Dstack, project: Path) -> None:
    out = dstack("init", "-y").out
    assert out.startswith("# yaml-language-server: $schema=workflows.schema.json\n")
    for name in ("workflows", "variables"):
        schema = json.loads((project / ".dstack" / f"{name}.schema.json").read_text())
        assert schema["$schema"].startswith("https://json-schema.org/")
    assert "*.schema.json\n" in (project / ".dstack" / ".gitignore").read_text()
    shipped = look(Listing(str(project))).paths
    assert [path for path in shipped if not path.endswith("ignore")] == [".dstack/workflows.yaml", "train.py"]


def test_what_is_there_stays(stub: StubApi, dstack: Dstack, project: Path) -> None:
    (project / ".dstack").mkdir()
    file = project / ".dstack" / "workflows.yaml"
    file.write_text("workflows: []\n")
    (project / ".dstack" / ".gitignore").write_text("mine\n")
    done = dstack("init")
    assert (done.code, done.out, "they stay as they are" in done.err) == (0, "", True)
    assert (file.read_text(), (project / ".dstack" / ".gitignore").read_text()) == ("workflows: []\n", "mine\n")
    assert (project / ".dstack" / "workflows.schema.json").exists()
    assert len(stub.named("POST …/repositories")) == 1


def test_mistakes_in_what_is_there_are_shown(stub: StubApi, dstack: Dstack, project: Path) -> None:
    (project / ".dstack" / "workflows").mkdir(parents=True)
    problem = {"severity": "error", "file": "w.yaml", "line": 1, "column": 2, "message": "bad"}
    stub.on("POST …/validate", Reply(body={"diagnostics": [problem], "workflows": []}))
    done = dstack("init")
    assert (done.code, "w.yaml:1:2: bad\n" in done.err) == (2, True)


def test_another_folder_and_one_within_a_repository(dstack: Dstack, project: Path, repository: Path) -> None:
    inner = repository / "inner"
    inner.mkdir()
    done = dstack("init", str(inner), "-y")
    assert (done.code, f"{repository} is a repository with workflows of its own" in done.err) == (0, True)
    assert (inner / ".dstack" / "workflows.yaml").exists()


def test_a_server_that_is_away_does_not_matter(
    stub: StubApi, dstack: Dstack, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dstack.cli.session._DEPLOYED_PATIENCE", 0.1)
    stub.close()
    done = dstack("init", "-y")
    assert (done.code, "which the first run does as well" in done.err) == (0, True)


def test_the_home_folder_is_no_project(dstack: Dstack, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(project))
    done = dstack("init", "-y")
    assert (done.code, "is no folder of a project" in done.err, (project / ".dstack").exists()) == (2, True, False)
    assert dstack("init", "-y", "nowhere").code == 2
