"""`dstack runner`: become a runner."""

from __future__ import annotations

import os
import sys

import click


@click.command()
@click.option("--server", metavar="URL", help="Work for this server instead of the one of this home.")
@click.option("--local", is_flag=True, hidden=True)
def runner(server: str | None, local: bool) -> None:
    """Run jobs on this machine for a server, until SIGTERM or Ctrl-C.

    Nobody needs this for the local server, which starts a runner of its own. A runner always calls the server, never
    the other way round; jobs that it runs go on when it is stopped, and the next one takes them over.

    Its state lies in the folder `runner` of DSTACK_HOME, one runner for each home.
    """
    arguments = [*(("--server", server) if server else ()), *(("--local",) if local else ())]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "dstack.runner", *arguments])
