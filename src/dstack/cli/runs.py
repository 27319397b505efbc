"""`dstack runs`: the list of runs, or one run with its jobs."""

from __future__ import annotations

import sys

import click

from dstack.cli.arguments import current_repository, given_name
from dstack.cli.render import (
    ago,
    count,
    duration,
    save_warnings,
    say,
    status_colour,
    status_words,
    write_json,
    write_table,
)
from dstack.cli.session import open_api
from dstack.client.api import Api
from dstack.client.sent import RepositoryRef
from dstack.client.types import Job, Run

RECENT = 10
REASON = 60
"""Characters of a reason that a table shows; `dstack explain` has all of it."""


@click.command()
@click.argument("run", required=False, type=given_name)
@click.option("-a", "--all", "everything", is_flag=True, help="All runs there are, of all repositories.")
@click.option(
    "-n",
    "--last",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"The newest N instead of {RECENT}, and the unfinished.",
)
@click.option("--no-jobs", is_flag=True, help="RUN without its jobs.")
@click.option("--diff", is_flag=True, help="What the code of RUN had beyond its commit, as `git diff` shows it.")
@click.option("--json", "as_json", is_flag=True, help="A list of objects, newest first.")
def runs(run: str | None, everything: bool, last: int | None, no_jobs: bool, diff: bool, as_json: bool) -> None:
    """List the unfinished and the newest runs, or show RUN with its jobs.

    Within a repository these are its own runs, elsewhere those of all.
    """
    if run and (everything or last):
        raise click.UsageError("RUN names one run: `-a` and `-n` are for the list")
    if diff:
        _show_diff(run, as_json=as_json)
        return
    elsewhere = 0
    with open_api() as api:
        if run:
            found = [api.run(run)]
        elif everything:
            found = api.runs(limit=last)
        else:
            found, elsewhere = _recent(api, current_repository(), last or RECENT)
    if as_json:
        write_json([_without_jobs(item) for item in found] if no_jobs else found)
    elif run:
        _show_one(found[0], jobs=[] if no_jobs else found[0].get("jobs", []))
    else:
        _show_list(found)
        _say_what_is_not_shown(len(found), elsewhere)


def _without_jobs(run: Run) -> Run:
    return {**run, "jobs": []}


def _show_diff(run: str | None, *, as_json: bool) -> None:
    if not run or as_json:
        raise click.UsageError("`--diff` is text about one RUN")
    from dstack.cli.difference import show_difference

    with open_api() as api:
        show_difference(api, run)


def _recent(api: Api, repository: RepositoryRef | None, limit: int) -> tuple[list[Run], int]:
    """Every unfinished run of the repository (None: of all) and the newest of its others, which is what is asked for
    nearly always; and how many runs of other repositories are unfinished."""
    newest = api.runs(repository=repository, limit=limit)
    unfinished = api.runs(repository=repository, active=True)
    found = {item.get("name", ""): item for item in [*newest, *unfinished]}
    elsewhere = len(api.runs(active=True)) - len(unfinished) if repository else 0
    return sorted(found.values(), key=lambda item: item.get("submitted_at", 0), reverse=True), max(0, elsewhere)


def _say_what_is_not_shown(shown: int, elsewhere: int) -> None:
    if not shown:
        say("No runs yet. Start one with: dstack run WORKFLOW")
    if elsewhere:
        verb = "is" if elsewhere == 1 else "are"
        say(f"{count(elsewhere, 'unfinished run')} of other repositories {verb} not shown: dstack runs -a")


def _show_list(found: list[Run]) -> None:
    if not found:
        return
    columns = ["RUN", "WORKFLOW", "STATUS", "JOBS", "ARTIFACTS", "SUBMITTED", "TAG"]
    rows = [
        [
            item.get("name", ""),
            item.get("workflow", ""),
            _status(item),
            _jobs_words(item),
            _artifact_paths(item),
            ago(item.get("submitted_at")),
            ", ".join(item.get("tags", [])),
        ]
        for item in found
    ]
    if len({item.get("repository") for item in found}) > 1:
        columns.insert(1, "REPOSITORY")
        for row, item in zip(rows, found, strict=True):
            row.insert(1, item.get("repository_name") or item.get("repository") or "")
    write_table(columns, rows, [status_colour(item) for item in found])


def _show_one(run: Run, *, jobs: list[Job]) -> None:
    _show_list([run])
    if run.get("resumed_from"):
        sys.stdout.write(f"\nfollows {run.get('resumed_from')}\n")
    variables = run.get("variables") or {}
    if variables:
        sys.stdout.write("\n" + "  ".join(f"--{name} {value}" for name, value in variables.items()) + "\n")
    if not jobs:
        return
    sys.stdout.write("\n")
    sys.stdout.flush()
    rows = [
        [
            job.get("name", ""),
            job.get("workflow", ""),
            _status(job),
            str(job.get("attempt") or ""),
            job.get("runner") or "",
            duration(job.get("started_at"), job.get("finished_at")),
            ", ".join(artifact.get("path", "") for artifact in job.get("artifacts", [])),
        ]
        for job in jobs
    ]
    columns = ["JOB", "WORKFLOW", "STATUS", "ATTEMPT", "RUNNER", "TOOK", "ARTIFACTS"]
    write_table(columns, rows, [status_colour(job) for job in jobs])
    warnings = save_warnings(run)
    if warnings:
        sys.stdout.write("\n" + "".join(f"warning: {text}\n" for text in warnings))


def _status(item: Run | Job) -> str:
    words = status_words(item)
    reason = item.get("reason_text")
    # `Failed` alone raises the question that the reason answers.
    if item.get("status") == "failed" and reason:
        return f"{words}: {_short(reason)}"
    if item.get("reused_run"):
        return f"{words} from {item.get('reused_run')}"
    why = item.get("why_waiting")
    return f"{words} {_short(why)}" if why else words


def _short(text: str) -> str:
    line = text.splitlines()[0]
    return line if len(line) <= REASON else f"{line[: REASON - 1]}…"


def _jobs_words(run: Run) -> str:
    # A list shows only some jobs of a large run, and counts all.
    total = run.get("jobs_total", len(run.get("jobs", [])))
    return f"{run.get('job_counts', {}).get('done', 0)}/{total}" if total else ""


def _artifact_paths(run: Run) -> str:
    return ", ".join(
        dict.fromkeys(artifact.get("path", "") for job in run.get("jobs", []) for artifact in job.get("artifacts", []))
    )
