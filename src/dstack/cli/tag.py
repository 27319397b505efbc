"""`dstack tag`: a name for what a run has saved."""

from __future__ import annotations

import click

from dstack.cli.arguments import given_name
from dstack.cli.render import say, write_json
from dstack.cli.session import open_api


@click.command()
@click.argument("run", type=given_name)
@click.argument("name", required=False, type=given_name)
@click.option("-n", "--name", "option", metavar="NAME", type=given_name, help="The same as the second argument.")
@click.option("-f", "--force", is_flag=True, help="Also a run that did not succeed; its artifacts show as partial.")
@click.option("--json", "as_json", is_flag=True, help="The tags that were set, one per workflow.")
def tag(run: str, name: str | None, option: str | None, force: bool, as_json: bool) -> None:
    """Tag the artifacts of RUN as NAME (by default the run's own name).

    Workflows refer to them by depends-on: WORKFLOW:NAME. A tag that exists moves to RUN.
    """
    if name and option and name != option:
        raise click.UsageError(f"two names were given: {name} and {option}")
    with open_api() as api:
        tags = api.tag(run, name or option or run, force=force)
    if as_json:
        write_json(tags)
        return
    for item in tags:
        partial = " (partial)" if item.get("partial") else ""
        say(f"{item.get('workflow')}:{item.get('name')} is now {item.get('run')}{partial}")
