"""`dstack tags`: the tags there are."""

from __future__ import annotations

import sys

import click

from dstack.cli.arguments import current_repository
from dstack.cli.render import ago, write_json, write_table
from dstack.cli.session import open_api

_everywhere = click.option(
    "-a", "--all", "everywhere", is_flag=True, help="Of all repositories, not only the one you are in."
)
_as_json = click.option("--json", "as_json", is_flag=True, help="A list of objects, newest first.")


@click.group(invoke_without_command=True)
@_everywhere
@_as_json
@click.pass_context
def tags(context: click.Context, everywhere: bool, as_json: bool) -> None:
    """List tags. Alone, the same as `dstack tags list`."""
    if context.invoked_subcommand is None:
        _list(everywhere=everywhere, as_json=as_json)
    elif everywhere or as_json:
        raise click.UsageError(f"options go behind the command: dstack tags {context.invoked_subcommand} …", context)


@tags.command("list")
@_everywhere
@_as_json
def list_tags(everywhere: bool, as_json: bool) -> None:
    """List the tags of this repository; outside of one, of all."""
    _list(everywhere=everywhere, as_json=as_json)


def _list(*, everywhere: bool, as_json: bool) -> None:
    repository = None if everywhere else current_repository()
    with open_api() as api:
        found = api.tags(repository=repository)
    if as_json:
        write_json(found)
    elif not found:
        sys.stderr.write("No tags. Set one with: dstack tag RUN NAME\n")
    else:
        columns = ["TAG", "WORKFLOW", "RUN", "TAGGED", "BY", "NOTE"]
        rows = [
            [
                item.get("name", ""),
                item.get("workflow", ""),
                item.get("run", ""),
                ago(item.get("at")),
                item.get("user") or "",
                "partial" if item.get("partial") else "",
            ]
            for item in found
        ]
        if repository is None:
            columns.insert(3, "REPOSITORY")
            for row, item in zip(rows, found, strict=True):
                row.insert(3, item.get("repository", ""))
        write_table(columns, rows)
