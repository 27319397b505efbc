"""`dstack schema` writes the schemas, and needs no server for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from dstack.cli.errors import UserError
from dstack.cli.schema import KINDS, schema

HELP = ["-h", "--help"]
"""As in the program: a command remembers the names of its first invocation, and the reference page shows them."""


@pytest.mark.parametrize("kind", KINDS)
def test_each_file_has_a_schema(kind: str) -> None:
    done = CliRunner().invoke(schema, [kind], standalone_mode=False, help_option_names=HELP)

    written = json.loads(done.output)
    Draft202012Validator.check_schema(written)
    assert kind in written["properties"]


def test_without_a_name_it_is_the_workflows(tmp_path: Path) -> None:
    target = tmp_path / "schema.json"

    done = CliRunner().invoke(schema, ["-o", str(target)], standalone_mode=False, help_option_names=HELP)

    assert done.exit_code == 0
    assert done.output == ""
    assert target.read_text().startswith("{\n")
    assert "workflows" in json.loads(target.read_text())["properties"]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".dstack").mkdir()
    (tmp_path / ".dstack" / "workflows.yaml").write_text("workflows: []\n")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    return tmp_path


def test_it_knows_the_providers_of_the_repository(repository: Path) -> None:
    text = "providers:\n- {name: mine, commands: [python3 main.py]}\n- {name: bash, commands: [x]}\n"
    (repository / ".dstack" / "providers.yaml").write_text(text)

    written = json.loads(CliRunner().invoke(schema, [], standalone_mode=False, help_option_names=HELP).output)

    names = written["$defs"]["provider"]["anyOf"][0]["enum"]
    assert (names.count("mine"), names.count("bash")) == (1, 1)
    validator = Draft202012Validator(written)
    assert validator.is_valid({"workflows": [{"name": "a", "provider": "mine", "anything": [1]}]})
    assert not validator.is_valid({"workflows": [{"name": "a", "provider": "yours"}]})


@pytest.mark.parametrize("content", [b"providers: [{name: mine}]", b"\xff"])
def test_a_wrong_file_of_providers_is_left_out(
    content: bytes, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (repository / ".dstack" / "providers.yml").write_bytes(content)

    assert schema.callback is not None
    assert schema.callback("workflows", None) == 0

    out, err = capsys.readouterr()
    assert "mine" not in json.loads(out)["$defs"]["provider"]["anyOf"][0]["enum"]
    assert err == "warning: .dstack/providers.yml is left out: `dstack validate` says what is wrong\n"


def test_what_cannot_be_written_says_so(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        schema, ["-o", str(tmp_path / "none" / "x.json")], standalone_mode=False, help_option_names=HELP
    )

    assert isinstance(done.exception, UserError)
    assert done.exception.message.startswith(f"cannot write {tmp_path}/none/x.json: ")
