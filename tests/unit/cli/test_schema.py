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


def test_what_cannot_be_written_says_so(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        schema, ["-o", str(tmp_path / "none" / "x.json")], standalone_mode=False, help_option_names=HELP
    )

    assert isinstance(done.exception, UserError)
    assert done.exception.message.startswith(f"cannot write {tmp_path}/none/x.json: ")
