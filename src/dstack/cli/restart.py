"""`dstack restart`: a new run of a job and of all that comes after it, or of everything."""

from __future__ import annotations

from typing import Any

import click

from dstack.cli.arguments import given_name, run_and_job
from dstack.cli.resuming import follow_on, with_options


@click.command()
@click.argument("run", metavar="RUN|:TAG[/JOB]", type=given_name)
@click.argument("job", required=False, type=given_name)
@with_options
def restart(run: str, job: str | None, **options: Any) -> int:
    """Run JOB of RUN again and all that comes after it, or everything, as a new run.

    What comes before JOB and is done is reused. Each job that runs finds its last snapshot in its artifact folders, or
    with --at an earlier one, unless --fresh is given.
    """
    run, job = run_and_job(run, job)
    return follow_on(run, restart=True, job=job, **options)
