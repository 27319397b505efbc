"""`dstack untag`: take a tag away. What it pointed to stays."""

from __future__ import annotations

import click

from dstack.cli.arguments import current_repository, given_name, tag_name
from dstack.cli.render import say, write_json
from dstack.cli.session import open_api


@click.command()
@click.argument("name", metavar="TAG|RUN", type=given_name)
@click.option("-w", "--workflow", help="Only of this workflow.")
@click.option("-f", "--force", is_flag=True, expose_value=False, help="Accepted from 2022; nothing is asked anyway.")
@click.option("--json", "as_json", is_flag=True, help="The tags that were removed.")
def untag(name: str, workflow: str | None, as_json: bool) -> None:
    """Remove the tag TAG, or all tags of RUN. The run and its artifacts stay."""
    tag = tag_name(name)
    with open_api() as api:
        removed = api.untag(tag, repository=current_repository(), workflow=workflow)
    if as_json:
        write_json(removed)
        return
    if not removed:
        say(f"{name} removed")  # the first answer, which said more, was lost
    for item in removed:
        say(f"{item.get('workflow')}:{item.get('name')} removed; it was {item.get('run')}")
