"""Write what the command line shows without importing its commands: the text of `dstack --help`, and the options and
arguments that shells complete."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import click

from dstack.cli.commands import COMMANDS, summary
from dstack.providers import registry
from dstack.workflows.options import available

FOLDER = Path(__file__).parent.parent / "src" / "dstack" / "cli"

# Names of arguments and options → what they stand for, as `dstack.cli.complete` knows it.
KINDS = {
    "run": "run",
    "runs": "run",
    "source": "run-or-tag",
    "workflow": "workflow",
    "tag": "tag",
    "untag name": "tag-or-run",
    "tag name": "tag",
    "tag option": "tag",
    "tags add words": "run",
    "config name": "profile",
    "config delete name": "profile",
}


def help_text() -> str:
    return (
        '"""The text of `dstack --help`. Written by scripts/generate_help.py from dstack.cli.commands."""\n\n'
        f'HELP = """\\\n{summary()}"""\n'
    )


def completions() -> str:
    options: list[str] = []
    arguments: list[str] = []
    for name, command in commands():
        told = [_option(name, item) for item in command.params if isinstance(item, click.Option) and not item.hidden]
        told.append('(("-h", "--help"), "", "Show the command\'s help.")')
        options.append(f"    {name!r}: (\n" + "".join(f"        {item},\n" for item in told) + "    ),\n")
        kinds = [_kind(name, item) + ("*" if item.nargs == -1 else "") for item in command.params if _is_argument(item)]
        if kinds:
            arguments.append(f"    {name!r}: {tuple(kinds)!r},\n")
    kinds_of = {name: kind for name, kind in registry().items() if kind.command_line is not None}
    providers = tuple(name for name, kind in kinds_of.items() if not kind.__module__.endswith(".pending"))
    taken = [f"    {name!r}: {tuple(available(kind))!r},\n" for name, kind in [*registry().items(), ("", None)]]
    return (
        '"""What shells complete. Written by scripts/generate_help.py from the commands themselves."""\n\n'
        "# fmt: off\n# ruff: noqa: E501\n"
        "# Command → its options: (spellings, kind of their value or empty, what they do).\n"
        f"OPTIONS: dict[str, tuple[tuple[tuple[str, ...], str, str], ...]] = {{\n{''.join(options)}}}\n"
        "# Command → the kinds of its arguments; the last one may come again where it ends in `*`.\n"
        f"ARGUMENTS: dict[str, tuple[str, ...]] = {{\n{''.join(arguments)}}}\n"
        f"PROVIDERS: tuple[str, ...] = {providers!r}\n"
        "# Provider → the options that its workflows take; the empty name is one that is not known.\n"
        f"PROVIDER_OPTIONS: dict[str, tuple[str, ...]] = {{\n{''.join(taken)}}}\n"
    )


def commands() -> Iterator[tuple[str, click.Command]]:
    """All but `run`, which reads its words itself; `artifacts list` stands by itself, too."""
    for name, (module, function, _) in COMMANDS.items():
        command = getattr(importlib.import_module(module), function)
        if name == "run":
            continue
        children = command.commands if isinstance(command, click.Group) else {}
        # A hidden command is what its group does alone.
        yield name, next((child for child in children.values() if child.hidden), command)
        yield from ((f"{name} {child}", found) for child, found in children.items() if not found.hidden)


def _is_argument(item: click.Parameter) -> bool:
    return isinstance(item, click.Argument)


def _option(command: str, item: click.Option) -> str:
    kind = "" if item.is_flag else _kind(command, item) or "files"
    spellings = tuple(item.opts)
    about = (item.help or "").split(". ")[0].removesuffix(".")
    return f"({spellings!r}, {kind!r}, {about!r})"


def _kind(command: str, item: click.Parameter) -> str:
    if isinstance(item.type, click.Choice):
        return "choice:" + ",".join(str(choice) for choice in item.type.choices)
    return KINDS.get(f"{command} {item.name}") or KINDS.get(item.name or "", "")


def write(name: str, text: str) -> None:
    (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write("helptext.py", help_text())
    write("completions.py", completions())
