"""`dstack tags`: the tags there are, and the forms of 2022 to set and remove one."""

from __future__ import annotations

import sys

import click

from dstack.cli.arguments import current_repository, given_name, tag_name
from dstack.cli.questions import make_sure
from dstack.cli.render import ago, write_json, write_table
from dstack.cli.session import open_api
from dstack.cli.tag import tag as set_tag
from dstack.cli.tagged import no_tag
from dstack.cli.untag import untag

_everywhere = click.option(
    "-a", "--all", "everywhere", is_flag=True, help="Of all repositories, not only the one you are in."
)
_as_json = click.option("--json", "as_json", is_flag=True, help="A list of objects, newest first.")


@click.group(invoke_without_command=True)
@_everywhere
@_as_json
@click.pass_context
def tags(context: click.Context, everywhere: bool, as_json: bool) -> None:
    """List, set and remove tags. Alone, the same as `dstack tags list`."""
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


@tags.command()
@click.argument("tag", type=given_name)
@click.argument("words", metavar="(RUN | -a PATH...)", nargs=-1, type=given_name)
@click.option("-r", "--run", metavar="RUN", type=given_name, help="The same as the second argument.")
@click.option("-a", "--artifact", "paths", metavar="PATH", multiple=True, help="Local files or a folder. Repeatable.")
@click.option("-f", "--force", is_flag=True, help="Also a RUN that did not succeed; its artifacts show as partial.")
@click.option("-y", "--yes", is_flag=True, expose_value=False, help="Accepted from 2022; nothing is asked anyway.")
@click.option("--json", "as_json", is_flag=True, help="The tags that were set; with -a the run, in a list.")
@click.pass_context
def add(
    context: click.Context,
    tag: str,
    words: tuple[str, ...],
    run: str | None,
    paths: tuple[str, ...],
    force: bool,
    as_json: bool,
) -> None:
    """Tag RUN, or local files, which are uploaded: as `dstack tag` and `dstack artifacts upload -t` do."""
    if paths and not run:
        from dstack.cli.upload import upload

        # `-a` took many paths in 2022: those behind the first one arrive as arguments.
        context.invoke(upload, paths=(*paths, *words), tags=(tag,), workflow=None, as_json=as_json)
        return
    runs = [*words, *([run] if run else [])]
    if paths or len(runs) != 1:
        raise click.UsageError("name one RUN, or local files with -a", context)
    context.invoke(set_tag, run=runs[0], name=tag, option=None, force=force, as_json=as_json)


@tags.command()
@click.argument("tag", type=given_name)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="The tags that were removed.")
@click.pass_context
def delete(context: click.Context, tag: str, yes: bool, as_json: bool) -> None:
    """Remove TAG, as `dstack untag TAG` does. It takes no RUN."""
    _require_tag(tag)
    if not yes:
        hint = f"dstack tags delete -y {tag}"
        make_sure(f"Remove {tag}?", not_done=f"{tag} is not removed", left=f"{tag} was left alone", hint=hint)
    context.invoke(untag, name=tag, workflow=None, as_json=as_json)


def _require_tag(tag: str) -> None:
    """Raises UserError for what is no tag: of a run's name, the server would remove all tags of it."""
    name = tag_name(tag)
    with open_api() as api:
        found = api.tags(repository=current_repository())
    if name in {item.get("name") for item in found}:
        return
    missing = no_tag(f":{name}", {f":{item.get('name')}" for item in found})
    if name in {item.get("run") for item in found}:
        missing.hint = f"`dstack untag {name}` removes all tags of that run"
    raise missing


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
