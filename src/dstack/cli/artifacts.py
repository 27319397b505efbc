"""`dstack artifacts`: what runs have saved."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dstack.cli.arguments import current_repository, run_or_tag
from dstack.cli.errors import UserError
from dstack.cli.interrupts import has_terminal
from dstack.cli.questions import agreed
from dstack.cli.render import ago, count, say, size_words, write_json, write_table
from dstack.cli.session import open_api
from dstack.client.api import Api
from dstack.client.types import Artifact


@click.group()
def artifacts() -> None:
    """List or download what runs have saved, by run or by tag."""


@artifacts.command("list")
@click.argument("source", metavar="RUN|:TAG")
@click.argument("workflow", required=False)
@click.option("--json", "as_json", is_flag=True, help="A list of objects, newest first.")
def list_artifacts(source: str, workflow: str | None, as_json: bool) -> None:
    """List the artifacts of RUN or :TAG."""
    with open_api() as api:
        found = _find(api, source, workflow)
    if as_json:
        write_json(found)
        return
    columns = ["PATH", "JOB", "RUN", "FILES", "SIZE", "SAVED", "NOTE"]
    rows = [
        [
            item.get("path", ""),
            item.get("job", ""),
            item.get("run", ""),
            str(item.get("files", 0)),
            size_words(item.get("size", 0)),
            ago(item.get("at")),
            "partial" if item.get("partial") else "",
        ]
        for item in found
    ]
    if rows:
        write_table(columns, rows)
    else:
        sys.stderr.write(f"{source} has no artifacts\n")


@artifacts.command()
@click.argument("source", metavar="RUN|:TAG")
@click.argument("workflow", required=False)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="Into this folder (default: ./RUN or ./TAG)."
)
@click.option("-f", "--force", is_flag=True, help="Overwrite files that differ.")
@click.option("--json", "as_json", is_flag=True, help="What was downloaded, as a list of objects.")
def download(source: str, workflow: str | None, output: Path | None, force: bool, as_json: bool) -> None:
    """Download the artifacts of RUN or :TAG.

    They appear under the same paths that the job wrote. Files that are there and differ are kept unless you agree.
    """
    target = output or Path(source.removeprefix(":"))
    with open_api() as api:
        found = _find(api, source, workflow)
        if not found:
            raise UserError(f"{source} has no artifacts" + (f" of {workflow}" if workflow else ""), exit_code=1)
        results = _fetch(api, found, target, force=force)
    if as_json:
        write_json([{**item, "target": str(path)} for item, path in results])
        return
    for item, path in results:
        say(f"{path}: {count(item.get('files', 0), 'file')}, {size_words(item.get('size', 0))}")


def _fetch(api: Api, found: list[Artifact], target: Path, *, force: bool) -> list[tuple[Artifact, Path]]:
    from dstack.client.artifacts import Differs, download_to

    try:
        return download_to(api, found, target, overwrite=force)
    except Differs as error:
        if not _may_overwrite(error.paths, target):
            raise
    return download_to(api, found, target, overwrite=True)


def _find(api: Api, source: str, workflow: str | None) -> list[Artifact]:
    """Newest first; those of one moment in order of job and path."""
    run, tag = run_or_tag(source)
    found = api.artifacts(run=run, tag=tag, workflow=workflow, repository=current_repository() if tag else None)
    return sorted(found, key=lambda item: -item.get("at", 0))


def _may_overwrite(paths: list[Path], target: Path) -> bool:
    if not has_terminal():
        return False
    say(f"{count(len(paths), 'file')} in {target} would be overwritten:")
    for path in paths[:10]:
        say(f"  {path}")
    if len(paths) > 10:
        say(f"  and {len(paths) - 10} more")
    return agreed("Overwrite?")
