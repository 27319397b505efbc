"""`dstack resume`: a new run of what an earlier one did not finish."""

from __future__ import annotations

from typing import Any

import click

from dstack.cli.arguments import given_name, run_and_job
from dstack.cli.errors import UserError
from dstack.cli.resuming import follow_on, with_options


@click.command()
@click.argument("run", metavar="RUN|:TAG", type=given_name)
@with_options
def resume(run: str, **options: Any) -> int:
    """Go on where RUN ended: a new run that reuses what is done and runs the rest.

    Each job that runs finds its last snapshot in its artifact folders, or with --at an earlier one, with the code,
    variables and inputs of RUN.
    """
    name, job = run_and_job(run, None)
    if job:
        hint = f"dstack resume {name}; or, to run that job and what comes after it again: dstack restart {name} {job}"
        raise UserError(f"`{run}` is a job: resume goes on with a whole run", hint)
    return follow_on(run, restart=False, **options)
