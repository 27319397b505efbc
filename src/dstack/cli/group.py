"""The command group: each command's module is loaded when it is the one that was asked for."""

from __future__ import annotations

import importlib

import click

from dstack.cli.commands import ALIASES, COMMANDS, EPILOGUE, FORMER
from dstack.cli.errors import near


class LazyGroup(click.Group):
    """A group whose commands stand in `dstack.cli.commands`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module, function, _ = COMMANDS.get(ALIASES.get(cmd_name, cmd_name), ("", "", ""))
        return getattr(importlib.import_module(module), function) if module else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            now = FORMER.get(name)
            hint = f"write `dstack {now}`" if now else near(name, [*COMMANDS, *ALIASES])
            raise click.UsageError(f"there is no command `{name}`" + (f"; {hint}" if hint else ""), ctx)
        return super().resolve_command(ctx, args)


@click.command("run", add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def run_command(words: tuple[str, ...]) -> int:
    """Run a workflow and follow its output."""
    # Usually `dstack.cli.main` goes there directly, without click.
    from dstack.cli.run import run

    return run(list(words))


def dispatch(arguments: list[str]) -> int:
    """Run the command that `arguments` name; its exit code. Raises what it raises, click's exceptions included."""
    settings = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
    group = LazyGroup("dstack", epilog=EPILOGUE, context_settings=settings)
    code = group.main(arguments, prog_name="dstack", standalone_mode=False)
    return code if isinstance(code, int) else 0
