"""`dstack metrics`: what the jobs of a run have logged, as figures or drawn."""

from __future__ import annotations

import shutil
import sys

import click

from dstack.cli.arguments import given_name
from dstack.cli.errors import UserError
from dstack.cli.plot import draw, sparkline
from dstack.cli.render import say, write_json, write_table
from dstack.cli.session import open_api
from dstack.cli.tagged import run_named
from dstack.client.types import Metric, Value

POINTS = 1_000
WIDTH_OF_SPARKLINE = 20


@click.command()
@click.argument("run", metavar="RUN|:TAG", type=given_name)
@click.argument("names", metavar="[METRIC]...", nargs=-1)
@click.option("--job", metavar="JOB", help="Of this job only.")
@click.option("--plot", is_flag=True, help="Draw each metric.")
@click.option("--json", "as_json", is_flag=True, help="A list of objects with up to 1,000 points each.")
def metrics(run: str, names: tuple[str, ...], job: str | None, plot: bool, as_json: bool) -> None:
    """Show the metrics of RUN: those that its jobs gave to dstack.log, wrote into metrics.jsonl, or printed as lines of
    JSON."""
    with open_api() as api:
        run = run_named(api, run)
        found = api.metrics(run, job=job, points=POINTS)
    missing = [name for name in names if name not in {item["name"] for item in found}]
    if missing:
        known = ", ".join(sorted({item["name"] for item in found})) or "none"
        raise UserError(f"`{run}` has no metric `{missing[0]}`", f"known: {known}", exit_code=1)
    shown = [item for item in found if not names or item["name"] in names]
    if as_json:
        write_json(shown)
    elif not shown:
        say(f"{run} has logged no metrics; a job logs them with dstack.log(step=1, loss=0.5)")
    elif plot:
        _plot(shown)
    else:
        _table(shown)


def figure(value: Value) -> str:
    """A value in few digits; `nan` where it is no number."""
    if value is None:
        return "nan"
    if isinstance(value, str):
        return value.replace("Infinity", "inf")
    return f"{value:.5g}"


def _table(found: list[Metric]) -> None:
    rows = [
        [
            item["job"],
            item["name"],
            figure(item["last"]),
            "" if item["last_step"] is None else str(item["last_step"]),
            figure(item["min"]),
            figure(item["max"]),
            str(item["count"]),
            sparkline(_values(item), WIDTH_OF_SPARKLINE),
        ]
        for item in found
    ]
    write_table(["JOB", "METRIC", "LAST", "STEP", "MIN", "MAX", "VALUES", ""], rows)


def _plot(found: list[Metric]) -> None:
    width = min(shutil.get_terminal_size().columns, 120)
    for item in found:
        sys.stdout.write(f"{item['job']}  {item['name']}  last {figure(item['last'])}\n")
        # Without steps, the order of the values is all there is to go by.
        steps = [point[0] for point in item["points"]]
        across = [float(number if step is None else step) for number, step in enumerate(steps)]
        sys.stdout.write(draw(across, _values(item), width, figure))
        sys.stdout.write("\n")
    sys.stdout.flush()


def _values(item: Metric) -> list[float]:
    """The values of the points; what is no finite number has no place in a drawing."""
    return [value if isinstance(value, int | float) else float("nan") for _, _, value in item["points"]]
