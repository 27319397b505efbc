"""`dstack prune`: delete the runs that nobody named."""

from __future__ import annotations

import sys

import click

from dstack.cli.arguments import current_repository, since
from dstack.cli.deleting import delete_runs, is_finished_and_untagged
from dstack.cli.render import ago, count, say, write_json, write_table
from dstack.cli.session import Session


@click.command()
@click.option("-y", "--yes", "-f", "--force", is_flag=True, help="Delete them; without it they are only listed.")
@click.option("-a", "--all", "everywhere", is_flag=True, help="Of all repositories, not only the one you are in.")
@click.option(
    "--before", type=since, metavar="TIME", help="Only those submitted before: 12h, 30d, 4w ago, or 2022-07-01."
)
@click.option("--json", "as_json", is_flag=True, help="The runs, and with -y what became of each.")
def prune(yes: bool, everywhere: bool, before: int | None, as_json: bool) -> None:
    """List the finished runs without a tag, and with -y delete them."""
    repository = None if everywhere else current_repository()
    session = Session()
    with session.api as api:
        found = [
            item
            for item in api.runs(repository=repository)
            if is_finished_and_untagged(item) and (before is None or item.get("submitted_at", 0) < before)
        ]
        if yes:
            outcomes = delete_runs(session, [item.get("name", "") for item in found])
    if as_json:
        write_json(outcomes if yes else found)  # pyright: ignore[reportPossiblyUnboundVariable]
    elif not found:
        say("No finished run is without a tag: there is nothing to prune.")
    elif not yes:
        rows = [
            [item.get("name", ""), item.get("workflow", ""), item.get("status_text", ""), ago(item.get("submitted_at"))]
            for item in found
        ]
        write_table(["RUN", "WORKFLOW", "STATUS", "SUBMITTED"], rows)
        sys.stdout.flush()
        say(f"{count(len(found), 'run')} would be deleted. To do so: dstack prune -y")
