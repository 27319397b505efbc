"""`dstack runners`: the machines that run jobs."""

from __future__ import annotations

import click

from dstack.cli.render import ago, say, size_words, write_json, write_table
from dstack.cli.session import open_api
from dstack.client.types import Gpu, Runner

_COLOURS = {"online": "green", "lost": "yellow", "offline": "grey"}


@click.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Also those that have left.")
@click.option("--json", "as_json", is_flag=True, help="A list of objects, by name.")
def runners(everything: bool, as_json: bool) -> None:
    """List the runners of the server: what they have, and how many jobs they hold."""
    with open_api() as api:
        found = api.runners(everything=everything)
    if as_json:
        write_json(found)
    elif not found:
        say("No runner is online. A server of your own starts one by itself; for another: dstack runner --server URL")
    else:
        columns = ["RUNNER", "CPU", "MEMORY", "GPU", "JOBS", "STATUS", "SEEN"]
        write_table(columns, [_row(item) for item in found], [_COLOURS.get(item.get("status", "")) for item in found])


def _row(runner: Runner) -> list[str]:
    return [
        runner.get("name", ""),
        _processors(runner),
        size_words(runner.get("memory", 0)),
        _gpus(runner.get("gpus", [])),
        str(len(runner.get("jobs", []))),
        runner.get("status_text", ""),
        ago(runner.get("heartbeat_at")),
    ]


def _processors(runner: Runner) -> str:
    """How many jobs may have; of how many, where it was told to give fewer."""
    slots, cpu = runner.get("slots", 0), runner.get("cpu", 0)
    return str(cpu) if slots == cpu else f"{slots} of {cpu}"


def _gpus(cards: list[Gpu]) -> str:
    names = [f"{card.get('name')} {size_words(card.get('memory', 0))}" for card in cards]
    counts = {name: names.count(name) for name in names}
    return ", ".join(name if number == 1 else f"{name} x {number}" for name, number in counts.items()) or "none"
