"""`dstack explain`: why a run waits, or why it failed."""

from __future__ import annotations

import sys

import click

from dstack.cli.arguments import given_name
from dstack.cli.hints import hints_on_end
from dstack.cli.render import write_json
from dstack.cli.session import open_api
from dstack.cli.tagged import run_named
from dstack.client.repository import find_root
from dstack.client.types import Explanation


@click.command()
@click.argument("run", metavar="RUN|:TAG", type=given_name)
@click.option("--json", "as_json", is_flag=True, help="The same as an object in a list.")
def explain(run: str, as_json: bool) -> None:
    """Say why RUN waits, or why it failed: the job that caused it, how it ended, and its last lines."""
    with open_api() as api:
        run = run_named(api, run)
        found = api.explain(run)
        hints = hints_on_end(api, run, find_root(), found)
    if as_json:
        write_json([found])
    else:
        sys.stdout.write(explanation_text(found) + "".join(f"hint: {hint}\n" for hint in hints))
        sys.stdout.flush()


def explanation_text(found: Explanation) -> str:
    lines = [found.get("summary", "")]
    cause = found.get("root_cause")
    if cause:
        lines.append(f"  cause: {cause.get('sentence')}")
        tail = cause.get("tail", [])
        if tail:
            lines += [f"  {cause.get('job')} said last:", *(f"    {line}" for line in tail)]
    lines += [f"  {line}" for line in found.get("lines", [])]
    lines += [f"  {item.get('job')} {item.get('why')}" for item in found.get("waiting", [])]
    return "\n".join(lines) + "\n"
