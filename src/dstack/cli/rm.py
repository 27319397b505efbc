"""`dstack rm`: delete runs with their logs."""

from __future__ import annotations

import click

from dstack.cli.arguments import current_repository, given_name
from dstack.cli.deleting import delete_runs, is_finished_and_untagged
from dstack.cli.questions import listed, make_sure
from dstack.cli.render import count, say, write_json
from dstack.cli.session import Session
from dstack.client.types import Run


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, type=given_name)
@click.option("-a", "--all", "everything", is_flag=True, help="All finished runs of this repository without a tag.")
@click.option("-f", "--force", is_flag=True, help="Also runs that have a tag; their tags go with them.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="What became of each run, as a list of objects.")
def rm(runs: tuple[str, ...], everything: bool, force: bool, yes: bool, as_json: bool) -> int:
    """Delete each RUN: its record, its logs, its metrics and its hold on what it saved.

    A run's name is never used again. Unfinished runs stay, and so does what an unfinished run uses. Exit code 1 when a
    RUN was not deleted.
    """
    if bool(runs) == everything:
        raise click.UsageError("name one RUN or more, or `--all`")
    session = Session()
    with session.api as api:
        names = list(runs)
        if everything:
            found = api.runs(repository=current_repository())
            names = [item.get("name", "") for item in found if _goes(item, force=force)]
            if not names:
                say("There is no finished run to delete here.")
        if names and not yes:
            _ask(names)
        results = delete_runs(session, names, force=force)
    if as_json:
        write_json(results)
    return 1 if any(not item["deleted"] for item in results) and not everything else 0


def _goes(run: Run, *, force: bool) -> bool:
    return is_finished_and_untagged(run) or (force and run.get("finished_at") is not None)


def _ask(names: list[str]) -> None:
    told = listed(names)
    question = f"Delete {count(len(names), 'run')} ({told})?"
    make_sure(question, not_done=f"{told}: not deleted", left="nothing was deleted", hint="add -y")
