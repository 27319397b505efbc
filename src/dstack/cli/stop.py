"""`dstack stop`: ask a run to end."""

from __future__ import annotations

import click

from dstack.cli.errors import UserError
from dstack.cli.interrupts import has_terminal
from dstack.cli.questions import agreed
from dstack.cli.render import say, write_json
from dstack.cli.session import open_api


@click.command()
@click.argument("run")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--abort", is_flag=True, help="At once, without saving what its jobs have written.")
@click.option("--json", "as_json", is_flag=True, help="The run as it is now, in a list.")
def stop(run: str, yes: bool, abort: bool, as_json: bool) -> None:
    """Stop RUN: its processes get SIGTERM, time to end, and then SIGKILL; artifacts are saved."""
    if not yes and not _is_sure(run, abort=abort):
        raise UserError(f"{run} was left alone", exit_code=1)
    with open_api() as api:
        stopped = api.stop(run, abort=abort)
    if as_json:
        write_json([stopped])
        return
    message = stopped.get("message")
    say(f"{run}: {message}" if message else f"{run}: {'aborting' if abort else 'stopping'}")


def _is_sure(run: str, *, abort: bool) -> bool:
    if not has_terminal():
        raise UserError(f"{run} is not stopped without asking, and there is no terminal", f"dstack stop -y {run}")
    return agreed(f"{'Abort' if abort else 'Stop'} {run}?")
