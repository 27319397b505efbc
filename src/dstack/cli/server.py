"""`dstack server`: the private server of this home."""

from __future__ import annotations

import os
import sys

import click

from dstack.cli.errors import UserError
from dstack.cli.move_store import move_store
from dstack.cli.render import ago, count, printable, write_json
from dstack.cli.session import Session
from dstack.client.api import Api, Unreachable
from dstack.client.profiles import LOCAL, choose
from dstack.client.types import Info
from dstack.embedded import Connector, home_folder, log_path, read_holder, server_command, wait_unlocked
from dstack.embedded import stop as stop_server

_as_json = click.option("--json", "as_json", is_flag=True, help="The server as one object in a list.")


@click.group(invoke_without_command=True)
@_as_json
@click.pass_context
def server(context: click.Context, as_json: bool) -> None:
    """Start, show or stop the local server. Alone, the same as `dstack server start`.

    Commands start it when they need it, and it ends by itself when nothing runs.
    """
    if context.invoked_subcommand is None:
        _start(as_json=as_json)
    elif as_json:
        raise click.UsageError(
            f"`--json` goes behind the command: dstack server {context.invoked_subcommand} --json", context
        )


@server.command()
@click.option("--foreground", is_flag=True, help="Become the server instead of starting one.")
@_as_json
def start(foreground: bool, as_json: bool) -> None:
    """Start the server unless it runs, and say where it is."""
    if foreground and as_json:
        raise click.UsageError("`--json` tells of a server that was started; with `--foreground` nobody is left to")
    if foreground:
        _require_own()
        command = server_command()
        sys.stdout.flush()
        os.execv(command[0], command)
    _start(as_json=as_json)


def _start(*, as_json: bool) -> None:
    _require_own()
    transport = Connector().connect()
    transport.close()
    session = Session()
    with session.api as api:
        _show(api.info(), session.home, as_json=as_json)


@server.command()
@click.option("--json", "as_json", is_flag=True, help="The server as one object in a list; empty when none runs.")
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
        _show(api.info(), session.home, as_json=as_json)
    return 0


@server.command()
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait for its end.")
def stop(timeout: float) -> None:
    """End the server and wait until it has ended. Jobs go on; the next server takes them over."""
    _require_own()
    home = home_folder()
    holder = read_holder(home)
    unfinished = _unfinished_jobs(home)
    if not stop_server(home, timeout):
        sys.stdout.write(f"no server runs for {printable(home)}\n")
    else:
        sys.stdout.write(f"stopped process {holder['pid']}\n" if holder else "stopped\n")
        if unfinished:
            verb, them = ("goes", "it") if unfinished == 1 else ("go", "them")
            jobs = count(unfinished, "unfinished job")
            sys.stdout.write(f"{jobs} {verb} on without it, and the next command's server takes {them} over\n")
    sys.stdout.flush()


server.add_command(move_store)


def _unfinished_jobs(home: str) -> int:
    """0 also where no server can be asked."""
    transport = Connector(home).find()
    if transport is None:
        return 0
    try:
        with Api(lambda: transport, patience=0.0) as api:
            return api.info().get("active_jobs", 0)
    except Unreachable:
        return 0


def _show(info: Info, home: str, *, as_json: bool) -> None:
    holder = read_holder(home)
    if as_json:
        write_json([{**info, "home": home, "socket": holder["socket"] if holder else None}])
        return
    runners = info.get("runners", [])
    facts = [
        ("server", choose(home).address or (holder["socket"] if holder else "")),
        ("process", str(info.get("pid", ""))),
        ("version", info.get("version", "")),
        ("started", ago(info.get("started_at"))),
        ("jobs", count(info.get("active_jobs", 0), "unfinished job")),
        ("runners", ", ".join(f"{item.get('name')} ({item.get('status')})" for item in runners) or "none"),
        ("database", info.get("database", "")),
        ("store", info.get("store", "")),
        ("log", log_path(home)),
    ]
    sys.stdout.write("".join(f"{name:<9} {printable(value)}\n" for name, value in facts))
    sys.stdout.flush()


def _show_nobody(home: str) -> None:
    if wait_unlocked(home, 0.0):
        sys.stdout.write(f"no server runs for {printable(home)}\n")
    else:
        holder = read_holder(home)
        who = f"process {holder['pid']}" if holder else "a process"
        words = f"{who} has {home} and does not answer: it is starting or ending; see {log_path(home)}"
        sys.stdout.write(f"{printable(words)}\n")
    sys.stdout.flush()


def _require_own() -> None:
    target = choose(home_folder())
    if target.address:
        raise UserError(
            f"the server is {target.address}, by {target.origin}: it is not started or stopped from here",
            f"DSTACK_SERVER={LOCAL} stands for the local one",
        )
