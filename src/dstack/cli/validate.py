"""`dstack validate`: everything that is wrong with the workflow files, at once."""

from __future__ import annotations

import sys

import click

from dstack.cli.render import count, diagnostics_text, write_json
from dstack.cli.session import open_api
from dstack.client.checked import Code, look
from dstack.client.repository import read_files, require_root


@click.command()
@click.option("--repo", metavar="DIR", help="The folder that holds .dstack/ (default: from here upwards).")
@click.option("--json", "as_json", is_flag=True, help="The diagnostics as a list of objects.")
def validate(repo: str | None, as_json: bool) -> int:
    """Check the workflow files of this repository, and that the files they name are there.

    Exit code 2 when something is wrong.
    """
    root = require_root(repo)
    with open_api() as api:
        found = look(api, read_files(root), Code(root))
    problems = found.get("diagnostics", [])
    if as_json:
        write_json(problems)
    else:
        sys.stderr.write(diagnostics_text(problems))
    if any(problem.get("severity") != "warning" for problem in problems):
        return 2
    if not as_json:
        number = len(found.get("workflows", []))
        sys.stdout.write(f"{count(number, 'workflow')}: no errors\n" if number else "no workflow is defined yet\n")
        sys.stdout.flush()
    return 0
