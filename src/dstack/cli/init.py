"""`dstack init`: the first workflows of a project."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from dstack.cli.errors import UserError
from dstack.cli.interrupts import has_terminal
from dstack.cli.questions import agreed
from dstack.cli.render import count, diagnostics_text, say
from dstack.cli.session import Session
from dstack.client.api import ApiError, Unreachable
from dstack.client.repository import find_root, identify, is_repository, read_files, real_path
from dstack.client.wire import WireError
from dstack.embedded import EmbeddedError

_SCHEMAS = {"workflows": "workflows.schema.json", "variables": "variables.schema.json"}
_IGNORE = "# Made by `dstack init`, for editors; each version of dstack has its own.\n*.schema.json\n"


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=".", metavar="[DIR]")
@click.option("-y", "--yes", is_flag=True, help="Write what is proposed without a question.")
def init(folder: Path, yes: bool) -> int:
    """Make DIR (by default the folder you are in) a repository of workflows.

    Looks for scripts and requirements, shows a first .dstack/workflows.yaml, and writes it if you agree. Where there is
    one already, it stays as it is. In any case the server gets to know the repository, and editors get JSON Schemas
    that complete and check the files.
    """
    root = Path(real_path(str(folder)))
    if not root.is_dir():
        raise UserError(f"{folder} is not a folder")
    if root in (Path("/"), Path(os.path.realpath(os.path.expanduser("~")))):
        raise UserError(
            f"{root} is no folder of a project: all of it would be sent with each run", "cd to your project"
        )
    if is_repository(str(root)):
        say(f"{root}/.dstack has workflows already; they stay as they are.")
        first = None
    else:
        first = _propose(root, agreed_already=yes)
    _place_schemas(root)
    return _register(root, first)


def _propose(root: Path, *, agreed_already: bool) -> str:
    """Show the file and write it; the workflow to begin with. Raises UserError when it is not wanted."""
    from dstack.cli.proposals import propose

    above = find_root(str(root))
    proposal = propose(root)
    target = root / ".dstack" / "workflows.yaml"
    for note in proposal.notes:
        say(note)
    if above is not None:
        say(f"Note: {above} is a repository with workflows of its own; within {root} these will be used instead.")
    say(f"\n{target}:\n")
    sys.stdout.write(proposal.text)
    sys.stdout.flush()
    say("")
    if not agreed_already:
        if not has_terminal():
            raise UserError("nothing was written: there is no terminal to ask at", "dstack init -y")
        if not agreed("Write it?"):
            raise UserError("nothing was written", "dstack init proposes it again", exit_code=1)
    try:
        target.parent.mkdir(exist_ok=True)
        with open(target, "x", encoding="utf-8") as file:
            file.write(proposal.text)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror or error}") from error
    say(f"{target} is written.")
    return proposal.first


def _place_schemas(root: Path) -> None:
    """Beside the files, for the modeline that names them; git and runs pass over them."""
    from dstack.cli.schema import schema_of

    folder = root / ".dstack"
    try:
        for kind, name in _SCHEMAS.items():
            (folder / name).write_text(json.dumps(schema_of(kind), ensure_ascii=False) + "\n", encoding="utf-8")
        # The second for folders without git.
        for name in (".gitignore", ".dstackignore"):
            if not (folder / name).exists():
                (folder / name).write_text(_IGNORE, encoding="utf-8")
    except OSError as error:
        say(f"the schemas for editors could not be written: {error}")


def _register(root: Path, first: str | None) -> int:
    """Tell the server of the repository, and check its files; the exit code."""
    session = Session()
    try:
        with session.api as api:
            repository = identify(str(root))
            api.register(repository)
            found = api.validate(read_files(str(root)))
    except (ApiError, Unreachable, WireError, EmbeddedError) as error:
        say(f"The server was not told of the repository, which the first run does as well: {error}")
        return 0
    problems = found.get("diagnostics", [])
    sys.stderr.write(diagnostics_text(problems))
    workflows = [item.get("name", "") for item in found.get("workflows", [])]
    say(f"{repository.get('name')} is known to the server, with {count(len(workflows), 'workflow')}.")
    if any(problem.get("severity") != "warning" for problem in problems):
        return 2
    if first or workflows:
        say(f"Next: dstack run {first or workflows[0]}")
    return 0
