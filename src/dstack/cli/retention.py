"""`dstack retention`: how long snapshots and runs of the project are kept."""

from __future__ import annotations

import click

from dstack.cli.render import ago, say, write_json, write_table
from dstack.cli.session import open_api
from dstack.client.types import RetentionRules
from dstack.domain.retention import RULES


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="The rules, as a list of one object.")
@click.pass_context
def retention(context: click.Context, as_json: bool) -> None:
    """Show how long snapshots and runs of this project are kept; `set` changes it.

    Whatever a tag points to, and what another run was given, is kept in any case, and so is the newest snapshot of
    every artifact. The rules are applied every few minutes; `dstack gc` then frees the space.
    """
    if context.invoked_subcommand is None:
        with open_api() as api:
            _show(api.retention(), as_json)


@retention.command("set")
@click.argument("rules", metavar="RULE=VALUE...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="The rules, as a list of one object.")
def set_rules(rules: tuple[str, ...], as_json: bool) -> None:
    """Change rules, as in `live=2h every=30m last=5 partials=14d runs=90d`; `never` for no end."""
    given: dict[str, str] = {}
    for rule in rules:
        name, separator, value = rule.partition("=")
        if not separator:
            raise click.UsageError(f"`{rule}` is no RULE=VALUE: write `{name}=…`")
        given[name.strip()] = value.strip()
    with open_api() as api:
        _show(api.set_retention(given), as_json)


def _show(found: RetentionRules, as_json: bool) -> None:
    if as_json:
        write_json([found])
        return
    defaults = found.get("defaults", {})
    rows = [
        [name, value, "" if value == defaults.get(name) else defaults.get(name, ""), RULES.get(name, "")]
        for name, value in found.get("rules", {}).items()
    ]
    write_table(["RULE", "VALUE", "DEFAULT", "WHAT IT SAYS"], rows)
    at = found.get("set_at")
    if at is not None:
        say(f"set {ago(at)}" + (f" by {found.get('set_by')}" if found.get("set_by") else ""))
