"""`dstack runs`: the list of runs, or one run with its jobs."""

from __future__ import annotations

import sys

import click

from dstack.cli.render import ago, duration, status_colour, status_words, write_json, write_table
from dstack.cli.session import open_api
from dstack.client.api import Api
from dstack.client.types import Job, Run

RECENT = 10


@click.command()
@click.argument("run", required=False)
@click.option("-a", "--all", "everything", is_flag=True, help="All runs, not only the unfinished and the newest.")
@click.option("--json", "as_json", is_flag=True, help="A list of objects, newest first.")
def runs(run: str | None, everything: bool, as_json: bool) -> None:
    """List the unfinished and the newest runs, or show RUN with its jobs."""
    with open_api() as api:
        found = [api.run(run)] if run else api.runs() if everything else _recent(api)
    if as_json:
        write_json(found)
    elif run:
        _show_one(found[0])
    elif found:
        _show_list(found)
    else:
        sys.stderr.write("No runs yet. Start one with: dstack run WORKFLOW\n")


REASON = 60
"""Characters of a reason that a table shows; `dstack explain` has all of it."""


def _recent(api: Api) -> list[Run]:
    """Every unfinished run and the newest of the others: what is asked for nearly always."""
    found = {item.get("name", ""): item for item in [*api.runs(limit=RECENT), *api.runs(active=True)]}
    return sorted(found.values(), key=lambda item: item.get("submitted_at", 0), reverse=True)


def _show_list(found: list[Run]) -> None:
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
    columns = ["RUN", "WORKFLOW", "STATUS", "JOBS", "ARTIFACTS", "SUBMITTED", "TAG"]
    write_table(columns, rows, [status_colour(item) for item in found])


def _show_one(run: Run) -> None:
    _show_list([run])
    variables = run.get("variables") or {}
    if variables:
        sys.stdout.write("\n" + "  ".join(f"--{name} {value}" for name, value in variables.items()) + "\n")
    jobs = run.get("jobs", [])
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


def _status(item: Run | Job) -> str:
    words = status_words(item)
    reason = item.get("reason_text")
    # `Failed` alone raises the question that the reason answers.
    if item.get("status") == "failed" and reason:
        short = reason if len(reason) <= REASON else f"{reason[: REASON - 1]}…"
        return f"{words}: {short.splitlines()[0]}"
    why = item.get("why_waiting")
    return f"{words} {why}" if why else words


def _jobs_words(run: Run) -> str:
    # A list shows only some jobs of a large run, and counts all.
    total = run.get("jobs_total", len(run.get("jobs", [])))
    return f"{run.get('job_counts', {}).get('done', 0)}/{total}" if total else ""


def _artifact_paths(run: Run) -> str:
    return ", ".join(
        dict.fromkeys(artifact.get("path", "") for job in run.get("jobs", []) for artifact in job.get("artifacts", []))
    )
