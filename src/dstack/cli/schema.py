"""`dstack schema`: JSON Schemas of the files in `.dstack`, for editors."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection

import click

from dstack.cli.arguments import given_name
from dstack.cli.errors import UserError
from dstack.cli.render import paint, say
from dstack.client.repository import RepositoryError, find_root, read_files

KINDS = ("workflows", "variables", "providers")


@click.command()
@click.argument("kind", type=click.Choice(KINDS), default="workflows")
@click.option("-o", "--output", metavar="FILE", type=given_name, help="Write it to a file.")
def schema(kind: str, output: str | None) -> int:
    """Print the JSON Schema (draft 2020-12) of .dstack/workflows.yaml, variables.yaml or providers.yaml.

    In a repository, that of workflows knows the names of its .dstack/providers.yaml.
    """
    own = _own_providers() if kind == "workflows" else ()
    text = json.dumps(schema_of(kind, own), indent=2, ensure_ascii=False) + "\n"
    if output is None:
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        try:
            with open(output, "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise UserError(f"cannot write {output}: {error.strerror}") from error
    return 0


def _own_providers() -> Collection[str]:
    """The names of the providers file of the repository here."""
    root = find_root()
    paths = [f".dstack/providers{suffix}" for suffix in (".yaml", ".yml")]
    there = [path for path in paths if root is not None and os.path.isfile(f"{root}/{path}")]
    if root is None or not there:
        return ()
    from dstack.providers import registry
    from dstack.workflows import Invalid, load

    try:
        return load(read_files(root, there), registry(), required=False).own_providers
    except (Invalid, RepositoryError):
        say(f"{paint('warning:', 'yellow', sys.stderr)} {there[0]} is left out: `dstack validate` says what is wrong")
        return ()


def schema_of(kind: str, own: Collection[str] = ()) -> dict[str, object]:
    """The schema of one of KINDS; `own` are names of the repository's own providers."""
    from dstack.providers import registry
    from dstack.workflows.schema import providers_schema, variables_schema, workflows_schema

    if kind == "workflows":
        return workflows_schema(registry(), own)
    return variables_schema() if kind == "variables" else providers_schema()
