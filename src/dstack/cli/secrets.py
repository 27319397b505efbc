"""`dstack secrets`: values for jobs that nobody gets to see, of the repository one is in."""

from __future__ import annotations

import sys

import click

from dstack.cli.errors import UserError
from dstack.cli.interrupts import has_terminal
from dstack.cli.questions import agreed, make_sure
from dstack.cli.render import ago, say, write_json, write_table
from dstack.cli.session import open_api
from dstack.client.api import ApiError
from dstack.client.repository import identify, require_root
from dstack.client.sent import RepositoryRef
from dstack.client.types import Secret

_repo = click.option("--repo", metavar="DIR", help="The folder that holds .dstack/ (default: from here upwards).")
_as_json = click.option("--json", "as_json", is_flag=True, help="A list of objects; no value is ever in it.")
_VALUE_HELP = """
    Without VALUE it is asked for, and not shown; where standard input is no terminal, or VALUE is `-`, it is read from
    there. A value that stands on the command line stays in your shell's history.
    """


class _Discreet(click.Command):
    """Does not repeat what it cannot read: it may be a value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption:
            words = "there is no such option; a value that begins with `-` stands behind `--`, or comes from a file"
            raise click.UsageError(words, ctx) from None


@click.group()
def secrets() -> None:
    """Set, list and delete values that never show.

    A workflow names them: ${{ secrets.NAME }} in `environment` or in `commands`. They are encrypted where they are
    stored, given to the jobs that name them, and masked in logs.
    """


@secrets.command("list")
@_repo
@_as_json
def list_secrets(repo: str | None, as_json: bool) -> None:
    """List the names of this repository's secrets."""
    repository = _repository(repo)
    with open_api() as api:
        found = api.secrets(repository)
    if as_json:
        write_json(found)
    elif not found:
        sys.stderr.write("No secrets. Add one with: dstack secrets add NAME\n")
    else:
        rows = [[item.get("name", ""), ago(item.get("updated_at")), item.get("by") or ""] for item in found]
        write_table(["NAME", "UPDATED", "BY"], rows)


@secrets.command(cls=_Discreet, help=f"Add the secret NAME.{_VALUE_HELP}")
@click.argument("name")
@click.argument("value", required=False)
@click.option("-y", "--yes", is_flag=True, help="Overwrite one that exists.")
@_repo
@_as_json
def add(name: str, value: str | None, yes: bool, repo: str | None, as_json: bool) -> None:
    repository = _repository(repo)
    with open_api() as api:
        exists = not yes and any(item.get("name") == name for item in api.secrets(repository))
        if exists and not _may_overwrite(name):
            raise UserError(f"the secret `{name}` was left as it is", exit_code=1)
        text = _read_value(name, value)
        try:
            made = api.add_secret(repository, name, text, overwrite=yes or exists)
        except ApiError as error:
            if error.code != "conflict":
                raise
            raise UserError(error.message, f"`dstack secrets add -y {name}` overwrites it") from None
    _report(made, text, "set" if yes or exists else "added", as_json=as_json)


@secrets.command(cls=_Discreet, help=f"Give the secret NAME, which exists, a new value.{_VALUE_HELP}")
@click.argument("name")
@click.argument("value", required=False)
@_repo
@_as_json
def update(name: str, value: str | None, repo: str | None, as_json: bool) -> None:
    repository = _repository(repo)
    text = _read_value(name, value)
    with open_api() as api:
        made = api.update_secret(repository, name, text)
    _report(made, text, "updated", as_json=as_json)


@secrets.command()
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@_repo
@_as_json
def delete(name: str, yes: bool, repo: str | None, as_json: bool) -> None:
    """Delete the secret NAME. Jobs that run keep what they were given."""
    repository = _repository(repo)
    if not yes:
        make_sure(
            f"Delete the secret {name}?",
            not_done=f"the secret `{name}` is not deleted",
            left=f"the secret `{name}` was left alone",
            hint=f"dstack secrets delete -y {name}",
        )
    with open_api() as api:
        removed = api.delete_secret(repository, name)
    if as_json:
        write_json([removed])
    else:
        say(f"{name} deleted")


def _repository(repo: str | None) -> RepositoryRef:
    return identify(require_root(repo))


def _read_value(name: str, given: str | None) -> str:
    """The value, from wherever it comes."""
    if given is not None and given != "-":
        say(
            "note: the value was visible in the list of processes, and your shell's history has it; without VALUE it "
            "is asked for"
        )
        return given
    if given is None and sys.stdin.isatty():
        import getpass

        try:
            value = getpass.getpass(f"Value of {name} (not shown): ")
        except EOFError:
            value = ""
    else:
        value = _from_standard_input(name)
    if not value:
        raise UserError(f"no value was given for `{name}`; nothing was changed")
    return value


def _from_standard_input(name: str) -> str:
    """All of it. The line end that `echo` adds to one line is no part of a value; a key of many lines needs its own."""
    try:
        text = sys.stdin.buffer.read().decode()
    except UnicodeDecodeError:
        raise UserError(f"the value of `{name}` is not UTF-8 text", "encode it, for example with base64") from None
    line = text.removesuffix("\n").removesuffix("\r")
    return text if "\n" in line else line


def _report(made: Secret, value: str, what: str, *, as_json: bool) -> None:
    from dstack.logs.forms import MIN_VALUE, is_maskable

    if not is_maskable(value.encode("utf-8", "surrogateescape")):
        say(f"warning: a value of fewer than {MIN_VALUE} characters is found everywhere and not masked in logs")
    if as_json:
        write_json([made])
    else:
        say(f"{made.get('name')} {what}; a workflow names it as ${{{{ secrets.{made.get('name')} }}}}")


def _may_overwrite(name: str) -> bool:
    if not has_terminal():
        raise UserError(f"the secret `{name}` exists", f"`dstack secrets add -y {name}` overwrites it")
    return agreed(f"The secret {name} exists. Overwrite it?")
