"""`dstack runner`: become a runner. Its options are its own."""

from __future__ import annotations

import os
import sys

import click


@click.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def runner(arguments: tuple[str, ...]) -> None:
    """Run jobs on this machine for a server."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "dstack.runner", *arguments])
