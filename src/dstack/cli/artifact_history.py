"""`dstack artifacts log`: the snapshots of a run over time, and the versions of one path."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from dstack.cli.arguments import current_repository
from dstack.cli.render import ago, size_words, write_json, write_table
from dstack.cli.session import open_api
from dstack.cli.tagged import source_named
from dstack.client.api import Api
from dstack.client.sources import SHOWN, Source, history, of_snapshot, parse
from dstack.client.types import SavedSnapshot


@click.command()
@click.argument("source", metavar="RUN|:TAG[/JOB][:PATH]")
@click.option("--json", "as_json", is_flag=True, help="A list of objects, newest first.")
def log(source: str, as_json: bool) -> None:
    """List the snapshots of RUN over time, newest first.

    STORED is what each added to the store: what had not changed was there.
    """
    wanted = parse(source)
    with open_api() as api:
        wanted = source_named(api, wanted)
        found = history(api, wanted, repository=current_repository() if wanted.tag else None)
    if wanted.snapshot is not None:
        found = of_snapshot(found, wanted, wanted.snapshot)
    show_snapshots(found, wanted, as_json=as_json)


def show_snapshots(found: Sequence[SavedSnapshot], source: Source, *, as_json: bool) -> None:
    if as_json:
        write_json(found)
        return
    if not found:
        sys.stderr.write(f"{source.text} has no snapshots\n")
        return
    attempts = any(item.get("attempt", 1) > 1 for item in found)
    rows = [
        [
            item.get("manifest_id", "")[:SHOWN],
            item.get("path", ""),
            item.get("job", "") + (f" #{item.get('attempt')}" if attempts else ""),
            ago(item.get("at")),
            str(item.get("files", 0)),
            size_words(item.get("size", 0)),
            size_words(item.get("stored", 0)),
            _note(item),
        ]
        for item in found
    ]
    write_table(["SNAPSHOT", "PATH", "JOB", "SAVED", "FILES", "SIZE", "STORED", "NOTE"], rows)


def _note(item: SavedSnapshot) -> str:
    if item.get("live"):
        return "while running" if item.get("attempt") else "of the run it follows"
    return "partial" if item.get("partial") else ""


def show_versions(api: Api, found: Sequence[SavedSnapshot], path: str, *, as_json: bool) -> None:
    """Each content that `path` had, with the first snapshot that has it; newest first."""
    from dstack.client import saved
    from dstack.client.store import remote_store

    versions = saved.versions(remote_store(api), found, path)
    if as_json:
        write_json(versions)
        return
    rows: list[list[str]] = []
    for item in versions:
        row: dict[str, Any] = dict(item)
        rows.append([row["manifest_id"][:SHOWN], row["job"], ago(row["at"]), row["type"], size_words(row["size"])])
    write_table(["SNAPSHOT", "JOB", "SAVED", "TYPE", "SIZE"], rows)
