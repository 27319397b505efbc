"""What a repository's workflows are: the lists behind `dstack run` without a name and `dstack run NAME --help`."""

from __future__ import annotations

import sys

from dstack.cli.errors import UserError, near
from dstack.cli.render import diagnostics_text, write_json, write_table
from dstack.cli.session import open_api
from dstack.client.repository import read_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dstack.client.types import Validation


def show_workflows(root: str, *, as_json: bool) -> int:
    """List the workflows of the repository at `root`."""
    found = _validate(root)
    workflows = found.get("workflows", [])
    if as_json:
        write_json(workflows)
        return 0
    rows = [
        [item.get("name", ""), item.get("provider", ""), f"{item.get('file')}:{item.get('line')}"] for item in workflows
    ]
    write_table(["WORKFLOW", "PROVIDER", "DEFINED IN"], rows)
    sys.stdout.write("\nRun one with: dstack run WORKFLOW\n")
    return 0


def show_help(root: str, name: str) -> int:
    """The options of `dstack run`, and what the workflow `name` takes."""
    from dstack.cli.run import USAGE

    workflows = {item.get("name", ""): item for item in _validate(root).get("workflows", [])}
    if name not in workflows:
        raise UserError(f"there is no workflow {name} in {root}", near(name, list(workflows)))
    about = workflows[name].get("help", "").rstrip()
    values = workflows[name].get("variables", {})
    rows = [f"  --{variable} {item.get('value')}  ({item.get('source')})\n" for variable, item in values.items()]
    sys.stdout.write(USAGE + (f"\n{about}\n" if about else ""))
    if rows:
        sys.stdout.write(f"\nVariables of {name}:\n{''.join(rows)}")
    return 0


def _validate(root: str) -> Validation:
    files = read_files(root)
    with open_api() as api:
        found = api.validate(files)
    problems = found.get("diagnostics", [])
    if problems:
        sys.stderr.write(diagnostics_text(problems))
    if any(problem.get("severity") != "warning" for problem in problems) and not found.get("workflows"):
        raise SystemExit(2)
    return found
