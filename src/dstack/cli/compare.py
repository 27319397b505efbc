"""`dstack compare`: what sets runs apart."""

from __future__ import annotations

import re
import sys

import click

from dstack.cli.arguments import given_name
from dstack.cli.metrics import figure
from dstack.cli.render import printable, status_words, write_json, write_table
from dstack.cli.session import open_api
from dstack.cli.tagged import run_named
from dstack.client.types import Comparison, Metric

# Of these, less is better. A guess by name, so both ends are in `--json`.
_LESS_IS_BETTER = re.compile(
    r"loss|err|mae|mse|perplexity|ppl|wer|cer|time|latency|seconds|duration|nll|fid|distance", re.IGNORECASE
)
_MARKS = {"added": "+", "removed": "-", "changed": "~"}


@click.command()
@click.argument("runs", metavar="RUN|:TAG RUN|:TAG...", nargs=-1, required=True, type=given_name)
@click.option("--json", "as_json", is_flag=True, help="The same as an object in a list.")
def compare(runs: tuple[str, ...], as_json: bool) -> None:
    """Show what sets two or more runs apart: parameters that differ, metrics, code and packages.

    The best of a metric is its lowest value where its name tells of loss, error or time, else its highest.
    """
    if len(runs) < 2:
        raise click.UsageError("name two runs or more")
    with open_api() as api:
        found = api.compare([run_named(api, run) for run in runs])
    if as_json:
        write_json([found])
        return
    columns = list(runs)
    _parameters(found, columns)
    _metrics(found, columns)
    _code(found)
    _packages(found, columns)
    sys.stdout.flush()


def _parameters(found: Comparison, columns: list[str]) -> None:
    rows = [
        ["workflow", *(run.get("workflow", "") for run in found["runs"])],
        ["status", *(status_words(run) for run in found["runs"])],  # pyright: ignore[reportArgumentType] - a run with more
        *(
            [_variable(item["step"], item["name"], found), *("" if v is None else str(v) for v in item["values"])]
            for item in found["variables"]
        ),
        *(
            [f"{printable(item['path'])} of", *("" if run is None else run for run in item["values"])]
            for item in found["inputs"]
        ),
    ]
    write_table(["", *columns], rows)
    if not found["variables"]:
        sys.stdout.write("All parameters are the same.\n")


def _variable(step: str, name: str, found: Comparison) -> str:
    roots = {run.get("workflow") for run in found["runs"]}
    return f"--{name}" if step in roots else f"--{step}.{name}"


def _metrics(found: Comparison, columns: list[str]) -> None:
    if not found["metrics"]:
        return
    several = len({item["job"] for item in found["metrics"]}) > 1
    rows = [
        [
            f"{item['job']}: {item['name']}" if several else item["name"],
            *(_value(item["name"], value) for value in item["values"]),
        ]
        for item in found["metrics"]
    ]
    sys.stdout.write("\n")
    write_table(["METRIC, last (best)", *columns], rows)


def _value(name: str, series: Metric | None) -> str:
    if series is None:
        return ""
    best = series["min"] if _LESS_IS_BETTER.search(name) else series["max"]
    return f"{figure(series['last'])} ({figure(best)})"


def _code(found: Comparison) -> None:
    code = found["code"]
    sys.stdout.write("\n")
    if len(set(code["content_ids"])) == 1:
        sys.stdout.write("The code is the same.\n" if code["content_ids"][0] else "There was no code.\n")
        return
    first = found["runs"][0]
    for run, difference in zip(found["runs"][1:], code["differences"], strict=True):
        if not difference["files"]:
            continue
        sys.stdout.write(f"Code of {difference['run']}{_commit(run)} beside {first['name']}{_commit(first)}:\n")
        for file in difference["files"]:
            sys.stdout.write(f"  {_MARKS.get(file['change'], '?')} {printable(file['path'])}\n")


def _commit(run: dict[str, object]) -> str:
    commit = run.get("commit")
    return f" ({str(commit)[:10]})" if commit else ""


def _packages(found: Comparison, columns: list[str]) -> None:
    rows = [[item["name"], *(value or "" for value in item["values"])] for item in found["packages"]]
    if rows:
        sys.stdout.write("\n")
        write_table(["PACKAGE", *columns], rows)
