"""`dstack config`: profiles, each a server with the token and the project to use there."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from dstack.cli.errors import UserError, error_text, near
from dstack.cli.interrupts import has_terminal
from dstack.cli.questions import agreed, asked
from dstack.cli.render import say, write_json, write_table
from dstack.cli.session import connect_to
from dstack.client.api import Api, ApiError, Unreachable
from dstack.client.profiles import DEFAULT, LOCAL, Target, choose, config_path, read_profiles, write_profiles
from dstack.client.wire import WireError
from dstack.embedded import home_folder

if TYPE_CHECKING:
    from dstack.client.profiles import Profile


class _ProfileGroup(click.Group):
    """A group in which every name that is no command is that of a profile, which is then set."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["set", *args]
        return super().parse_args(ctx, args or ["set"])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options of setting a profile, which is what `dstack config` alone does, and the commands."""
        options = [param for param in self.commands["set"].params if isinstance(param, click.Option)]
        records = [option.get_help_record(ctx) for option in options]
        with formatter.section("Options"):
            formatter.write_dl([record for record in records if record is not None])
        self.format_commands(ctx, formatter)


@click.group(cls=_ProfileGroup, options_metavar="", subcommand_metavar="[PROFILE] [OPTIONS] | COMMAND")
def config() -> None:
    """Set the profile PROFILE (`default` if none is named): a server, and the token and project to use there.

    Without any profile, and with DSTACK_SERVER=local, commands use a server of their own on this machine. The profile
    `default` is used for every command; DSTACK_PROFILE=NAME chooses another one for a command.
    """


@config.command("set", hidden=True)
@click.argument("name", metavar="[PROFILE]", default=DEFAULT)
@click.option("--server", metavar="URL", help="https://HOST, http://HOST:PORT, unix:/path/to/socket, or `local`.")
@click.option("--token", metavar="TOKEN", help="What the server knows you by; asked for in a terminal.")
@click.option("--project", metavar="NAME", help="The project there; by default `main`.")
@click.option("--no-verify", is_flag=True, help="Do not check the server's certificate.")
@click.option("-f", "--force", is_flag=True, help="Replace a profile without a question.")
def set_profile(
    name: str, server: str | None, token: str | None, project: str | None, no_verify: bool, force: bool
) -> None:
    """Set a profile."""
    if name == LOCAL:
        raise UserError(f"`{LOCAL}` always stands for the server of this machine", "choose another name")
    path = config_path(home_folder())
    profiles = read_profiles(path)
    if name in profiles and not force and not agreed(f"Replace the profile `{name}`?"):
        raise UserError(f"the profile `{name}` is there already and was left as it is", "add --force", exit_code=1)
    if server is None:
        server = asked("Server: ")
        if not server:
            raise UserError("a profile needs a server", f"dstack config {name} --server URL")
    profile: Profile = {"server": server.rstrip("/")}
    if token is None and server != LOCAL and has_terminal():
        import getpass

        token = getpass.getpass("Token (empty for none): ", stream=sys.stderr).strip()
    if token:
        profile["token"] = token
    if project:
        profile["project"] = project
    if no_verify:
        profile["verify"] = False
    origin = f"the profile `{name}`"
    target = Target(profile.get("server", ""), token or "", project or "main", origin, verify=not no_verify)
    connect = connect_to(target) if target.address else None  # refuses what is no address before anything is written
    write_profiles(path, {**profiles, name: profile})
    say(f"{path}: {origin} is set")
    if connect is not None:
        _try(Api(connect, project=target.project, patience=0.0), target)


@config.command("list")
@click.option("--json", "as_json", is_flag=True, help="A list of objects, without the tokens.")
def list_profiles(as_json: bool) -> None:
    """List the profiles, and say which one is in use."""
    home = home_folder()
    profiles = read_profiles(config_path(home))
    current = choose(home).profile
    found: list[dict[str, Any]] = [
        {
            "name": name,
            "server": profile.get("server", ""),
            "project": profile.get("project") or "main",
            "token": bool(profile.get("token")),
            "verify": profile.get("verify", True),
            "current": name == current,
        }
        for name, profile in profiles.items()
    ]
    if as_json:
        write_json(found)
        return
    if not found:
        say("No profiles: commands use a server of their own on this machine. Set one with: dstack config --server URL")
        return
    rows = [
        [
            item["name"] + (" *" if item["current"] else ""),
            item["server"],
            item["project"],
            "set" if item["token"] else "",
            "" if item["verify"] else "certificate not checked",
        ]
        for item in found
    ]
    write_table(["PROFILE", "SERVER", "PROJECT", "TOKEN", "NOTE"], rows)


@config.command("delete")
@click.argument("name", metavar="PROFILE")
def delete(name: str) -> None:
    """Delete PROFILE."""
    path = config_path(home_folder())
    profiles = read_profiles(path)
    if name not in profiles:
        raise UserError(f"there is no profile `{name}` in {path}", near(name, list(profiles)))
    del profiles[name]
    write_profiles(path, profiles)
    say(f"{path}: the profile `{name}` is gone")


def _try(api: Api, target: Target) -> None:
    """Say whether the server answers: a profile may be set before its server is up."""
    try:
        with api:
            info = api.info()
    except (Unreachable, WireError, ApiError) as error:
        say(error_text(f"{target.address} does not answer yet: {error}", None).rstrip())
    else:
        say(f"{target.address} answers: dstack {info.get('version')}")
