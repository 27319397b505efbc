"""`dstack --help` is served from text that was generated."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import dstack
from dstack.cli.commands import ALIASES, COMMANDS, summary
from dstack.cli.helptext import HELP
from dstack.cli.options import parse


def test_the_text_is_current() -> None:
    assert summary() == HELP, "run: python scripts/generate_help.py"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_names_commands_that_exist(name: str) -> None:
    module, function, about = COMMANDS[name]
    command = getattr(importlib.import_module(module), function)
    assert isinstance(command, click.Command)
    assert command.name == name
    assert about in HELP


NO_DATA = {
    "artifacts cat": "is a file's own bytes",
    "server stop": "says which process ended",
    "completion": "code for a shell",
    "init": "proposes a file, and asks",
    "config set": "says what it wrote",
    "config delete": "says what it removed",
    "runner": "is a program of its own",
    "schema": "prints JSON in any case",
}
"""Commands without `--json`, and why."""


def leaves() -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, `artifacts list` too."""
    for name, (module, function, _) in COMMANDS.items():
        command = getattr(importlib.import_module(module), function)
        if isinstance(command, click.Group):
            for child in command.commands.values():
                yield f"{name} {child.name}", child
        else:
            yield name, command


def test_every_command_that_prints_data_prints_it_as_json() -> None:
    found = dict(leaves())
    assert found.keys() >= NO_DATA.keys()
    assert parse(["--json", "train"]).json, "`run` reads its words itself"
    without = {
        name
        for name, command in found.items()
        if name != "run" and not any("--json" in parameter.opts for parameter in command.params)
    }
    assert without == NO_DATA.keys()


def test_the_other_names_of_runs() -> None:
    assert ALIASES == {"ps": "runs", "status": "runs"}


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; from dstack.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'click', 'json', 're', 'socket', 'typing', 'enum', 'dstack.cli.errors'} & set(sys.modules); "
        "sys.exit(code or ', '.join(sorted(heavy)) or 0)"
    )
    # Without `site`, which loads what other packages ask for; so the package's place is given.
    environment = {"PYTHONPATH": str(Path(dstack.__file__).parent.parent)}
    command = [sys.executable, "-S", "-c", code, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, HELP, "")
