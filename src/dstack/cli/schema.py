"""`dstack schema`: JSON Schemas of the files in `.dstack`, for editors."""

from __future__ import annotations

import json
import sys

import click

from dstack.cli.errors import UserError

KINDS = ("workflows", "variables", "providers")


@click.command()
@click.argument("kind", type=click.Choice(KINDS), default="workflows")
@click.option("-o", "--output", metavar="FILE", help="Write it to a file.")
def schema(kind: str, output: str | None) -> int:
    """Print the JSON Schema (draft 2020-12) of .dstack/workflows.yaml, variables.yaml or providers.yaml."""
    text = json.dumps(schema_of(kind), indent=2, ensure_ascii=False) + "\n"
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


def schema_of(kind: str) -> dict[str, object]:
    """The schema of one of KINDS."""
    from dstack.providers import registry
    from dstack.workflows.schema import providers_schema, variables_schema, workflows_schema

    if kind == "workflows":
        return workflows_schema(registry())
    return variables_schema() if kind == "variables" else providers_schema()
