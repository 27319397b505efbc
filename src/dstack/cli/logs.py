"""`dstack logs`: a run's output, from the first line also when opened late."""

from __future__ import annotations

import click

from dstack.cli.arguments import given_name, run_and_job
from dstack.cli.arguments import since as parse_since
from dstack.cli.errors import BROKEN_PIPE, INTERRUPTED, TERMINATED, UserError, forget_stdout, near
from dstack.cli.follow import Follower
from dstack.cli.interrupts import Interrupted, Interrupts, Terminated
from dstack.cli.json_lines import JsonFollower
from dstack.cli.output import LogOutput
from dstack.cli.render import say
from dstack.cli.session import Session
from dstack.cli.tagged import run_named
from dstack.client.api import Api
from dstack.client.types import Run


@click.command()
@click.argument("run", metavar="RUN|:TAG[/JOB]", type=given_name)
@click.argument("job", required=False, type=given_name)
@click.option("-f", "--follow", "-a", "--attach", is_flag=True, help="Go on until the run ends.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines: jobs' changes, and what they wrote as text.")
@click.option(
    "-s", "--since", type=parse_since, metavar="TIME", help="From that time on: 5m, 2h, 1d, or 2022-07-01T12:00."
)
def logs(run: str, job: str | None, follow: bool, since: int | None, as_json: bool) -> int:
    """Show the output of RUN, or of its JOB only, exactly as it was written."""
    run, job = run_and_job(run, job)
    session = Session()
    session.accept_newer_server()
    try:
        with session.api as api, Interrupts() as interrupts:
            kind = JsonFollower if as_json else Follower
            _follower(kind, api, run_named(api, run), job, follow=follow, since=since).follow(interrupts)
    except Interrupted:
        return INTERRUPTED
    except Terminated:
        return TERMINATED
    except BrokenPipeError:
        forget_stdout()
        return BROKEN_PIPE
    return 0


def _follower(
    kind: type[Follower], api: Api, run: str, job: str | None, *, follow: bool, since: int | None
) -> Follower:
    found = api.run(run)
    names = {name for item in found.get("jobs", []) for name in (item.get("name"), item.get("workflow")) if name}
    if job is not None and job not in names:
        raise UserError(
            f"run {run} has no job `{job}`", near(job, sorted(names)) or f"jobs: {', '.join(sorted(names))}"
        )
    quiet = not follow or kind is JsonFollower
    follower = kind(api, run, LogOutput(), follow=follow, job=job, since=since, quiet=quiet)
    follower.expect(found)
    if not (follow or kind is JsonFollower):
        _tell_reused(found, job)
    return follower


def _tell_reused(run: Run, job: str | None) -> None:
    """Where the output of jobs is that did not run in this run."""
    for item in run.get("jobs", []):
        name, source = item.get("name", ""), item.get("reused_run")
        if source and job in (None, name, item.get("workflow")):
            say(f"{name} is reused; its output: dstack logs {source} {name}")
