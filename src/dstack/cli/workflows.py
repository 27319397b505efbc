"""`dstack workflows`: what can be run here; also what `dstack run` without a name and `dstack run NAME --help` show."""

from __future__ import annotations

import sys

import click

from dstack.cli.errors import UserError, near
from dstack.cli.render import diagnostics_text, say, write_json, write_table
from dstack.cli.session import open_api
from dstack.client.repository import read_files, require_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dstack.client.planned import DeclaredVariable, Validation


@click.command()
@click.option("--repo", metavar="DIR", help="The folder that holds .dstack/ (default: from here upwards).")
@click.option("--json", "as_json", is_flag=True, help="A list of objects, with the variables of each.")
def workflows(repo: str | None, as_json: bool) -> int:
    """List the workflows of this repository. What one takes: dstack run WORKFLOW --help."""
    return show_workflows(require_root(repo), as_json=as_json)


def show_workflows(root: str, *, as_json: bool) -> int:
    """List the workflows of the repository at `root`."""
    found = _validate(root).get("workflows", [])
    if as_json:
        write_json(found)
    elif not found:
        say(f"{root}/.dstack defines no workflow yet.")
    else:
        columns = ["WORKFLOW", "PROVIDER", "DEFINED IN", "WHAT IT DOES"]
        rows = [
            [
                item.get("name", ""),
                item.get("provider", ""),
                f"{item.get('file')}:{item.get('line')}",
                next(iter(item.get("help", "").splitlines()), ""),
            ]
            for item in found
        ]
        write_table(columns, rows)
        say("\nRun one with: dstack run WORKFLOW")
    return 0


def show_help(root: str, name: str) -> int:
    """The options of `dstack run`, and what the workflow `name` takes."""
    from dstack.cli.run import USAGE

    found = _validate(root, describe=name)
    defined = {item.get("name", ""): item for item in found.get("workflows", [])}
    described = found.get("described")
    if name not in defined and described is None:
        known = [*defined, *found.get("providers", [])]
        raise UserError(f"there is no workflow `{name}` in {root}", near(name, known))
    about = defined.get(name, {}).get("help", "").rstrip()
    usage = (described or {}).get("usage")
    sys.stdout.write(USAGE + (f"\n{about}\n" if about else "") + (f"\nUsage: dstack run {usage}\n" if usage else ""))
    values = defined.get(name, {}).get("variables", {})
    if values:
        rows = "".join(_variable_rows(variable, item) for variable, item in values.items())
        sys.stdout.write(f"\nVariables of {name}:\n{rows}")
    options = (described or {}).get("options", [])
    if options:
        width = max(len(item["option"]) for item in options)
        rows = "".join(f"  {item['option']:<{width}}  {item['help']}\n" for item in options)
        sys.stdout.write(f"\nOptions that override the file:\n{rows}")
    return 0


def _variable_rows(name: str, about: DeclaredVariable) -> str:
    """A variable with what it may be and is, and below it what it is for."""
    kind = about.get("type")
    what = f"{name} {'' if kind == 'bool' else (kind or 'value').upper()}".rstrip()
    bounds = [f"{word} {about.get(key)}" for key, word in _BOUNDS.items() if about.get(key) is not None]
    choices = about.get("choices")
    if choices:
        bounds.append(f"one of {', '.join(map(_spelled, choices))}")
    value = "has to be given" if about.get("required") else _spelled(about.get("value"))
    told = "; ".join([value, *bounds])
    text = f"  --{what}  {told}  ({about.get('source')})\n"
    return text + "".join(f"      {line}\n" for line in about.get("help", "").splitlines())


def _spelled(value: object) -> str:
    """A value as the file would have it."""
    words = {True: "true", False: "false", None: "null"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


_BOUNDS = {"min": "at least", "max": "at most"}


def _validate(root: str, *, describe: str | None = None) -> Validation:
    files = read_files(root)
    with open_api() as api:
        found = api.validate(files, describe=describe)
    if describe is not None and not files and found.get("described") is not None:
        return found
    problems = found.get("diagnostics", [])
    if problems:
        sys.stderr.write(diagnostics_text(problems))
    if any(problem.get("severity") != "warning" for problem in problems) and not found.get("workflows"):
        raise SystemExit(2)
    return found
