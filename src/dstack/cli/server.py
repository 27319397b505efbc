"""`dstack server`: the private server of this home."""

from __future__ import annotations

import os
import sys

import click

from dstack.cli.errors import UserError
from dstack.cli.render import ago, count, write_json
from dstack.cli.session import Session
from dstack.client.types import Info
from dstack.embedded import Connector, home_folder, log_path, read_holder, server_command, wait_unlocked
from dstack.embedded import stop as stop_server


@click.group(invoke_without_command=True)
@click.pass_context
def server(context: click.Context) -> None:
    """Start, show or stop the local server. Alone, the same as `dstack server start`.

    Commands start it when they need it, and it ends by itself when nothing runs.
    """
    if context.invoked_subcommand is None:
        context.invoke(start)


@server.command()
@click.option("--foreground", is_flag=True, help="Become the server instead of starting one.")
def start(foreground: bool) -> None:
    """Start the server unless it runs, and say where it is."""
    _require_own()
    if foreground:
        command = server_command()
        sys.stdout.flush()
        os.execv(command[0], command)
    transport = Connector().connect()
    transport.close()
    with Session().api as api:
        _show(api.info())


@server.command()
@click.option("--json", "as_json", is_flag=True, help="One object in a list; an empty list when none runs.")
def status(as_json: bool) -> int:
    """Show the server's process, socket, version and jobs. Exit code 1 when none runs."""
    session = Session()
    if session.connector is not None:
        transport = session.connector.find()
        if transport is None:
            if as_json:
                write_json([])
            else:
                _show_nobody(session.home)
            return 1
        transport.close()
    with session.api as api:
        info = api.info()
    if as_json:
        holder = read_holder(session.home)
        write_json([{**info, "home": session.home, "socket": holder["socket"] if holder else None}])
    else:
        _show(info)
    return 0


@server.command()
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait for its end.")
def stop(timeout: float) -> None:
    """End the server and wait until it has ended. Jobs go on; the next server takes them over."""
    _require_own()
    home = home_folder()
    holder = read_holder(home)
    if not stop_server(home, timeout):
        sys.stdout.write(f"no server runs for {home}\n")
    else:
        sys.stdout.write(f"stopped process {holder['pid']}\n" if holder else "stopped\n")
    sys.stdout.flush()


def _show(info: Info) -> None:
    home = home_folder()
    holder = read_holder(home)
    runners = info.get("runners", [])
    facts = [
        ("server", os.environ.get("DSTACK_SERVER") or (holder["socket"] if holder else "")),
        ("process", str(info.get("pid", ""))),
        ("version", info.get("version", "")),
        ("started", ago(info.get("started_at"))),
        ("jobs", count(info.get("active_jobs", 0), "unfinished job")),
        ("runners", ", ".join(f"{item.get('name')} ({item.get('status')})" for item in runners) or "none"),
        ("database", info.get("database", "")),
        ("store", info.get("store", "")),
        ("log", log_path(home)),
    ]
    sys.stdout.write("".join(f"{name:<9} {value}\n" for name, value in facts))
    sys.stdout.flush()


def _show_nobody(home: str) -> None:
    if wait_unlocked(home, 0.0):
        sys.stdout.write(f"no server runs for {home}\n")
    else:
        holder = read_holder(home)
        who = f"process {holder['pid']}" if holder else "a process"
        sys.stdout.write(f"{who} has {home} and does not answer: it is starting or ending; see {log_path(home)}\n")
    sys.stdout.flush()


def _require_own() -> None:
    if os.environ.get("DSTACK_SERVER"):
        raise UserError(
            f"DSTACK_SERVER is {os.environ['DSTACK_SERVER']}: that server is not started or stopped from here",
            "unset DSTACK_SERVER to use a local one",
        )
