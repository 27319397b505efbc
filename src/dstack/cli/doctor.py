"""`dstack doctor`: what of this machine keeps runs from working, and what to do."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from dstack.cli.checks import check_all
from dstack.cli.render import paint, printable, write_json
from dstack.cli.session import Session

_COLOURS = {"ok": "green", "note": "yellow", "problem": "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="A list of objects: `name`, `status`, `text`, `fix`.")
def doctor(as_json: bool) -> int:
    """Look at everything that runs need: Python, uv, git, disk, socket, server, GPUs, proxies, the package index.

    Exit code 1 when there is a problem. No server is started for this.
    """
    found = check_all(Session())
    if as_json:
        write_json([asdict(check) for check in found])
    else:
        width = max(len(check.name) for check in found)
        for check in found:
            word = paint(check.status.ljust(7), _COLOURS[check.status], sys.stdout)
            sys.stdout.write(f"{word}  {check.name.ljust(width)}  {printable(check.text)}\n")
            if check.fix:
                sys.stdout.write(f"{' ' * (width + 11)}{printable(check.fix)}\n")
        sys.stdout.flush()
    return 1 if any(check.status == "problem" for check in found) else 0
