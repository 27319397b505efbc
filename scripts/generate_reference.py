"""Write the reference pages: docs/reference/commands.md from the commands, docs/reference/workflows.md from the keys
that workflows and providers declare. A test holds the pages against what this would write."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import click

from dstack import providers
from dstack.cli.commands import ALIASES, COMMANDS
from dstack.cli.run import USAGE
from dstack.sdk.config import WorkflowConfig

FOLDER = Path(__file__).parent.parent / "docs" / "reference"

_ANY_TEXT = {"string", "integer", "number", "boolean"}
_WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "null": "nothing",
}


def pages() -> dict[str, str]:
    """The text of each generated page, by its name in docs/reference."""
    return {"commands.md": commands_page(), "workflows.md": workflows_page()}


# --- commands --------------------------------------------------------------------------------------------------


def commands_page() -> str:
    parts = [
        (
            "# Commands\n\n"
            "Written by `scripts/generate_reference.py` from the commands themselves. "
            "What goes beyond single options is in [the command line](../cli.md).\n"
        )
    ]
    for name, (module, function, _) in COMMANDS.items():
        if name == "run":
            parts.append(f"## `dstack run`\n\n{_indented(USAGE)}")
        else:
            command = cast("click.Command", getattr(importlib.import_module(module), function))
            also = [alias for alias, target in ALIASES.items() if target == name]
            parts.extend(_command(f"dstack {name}", command, also))
    return "\n".join(parts)


def _command(path: str, command: click.Command, also: list[str]) -> Iterator[str]:
    context = click.Context(command, info_name=path, max_content_width=100, help_option_names=["-h", "--help"])
    text = f"## `{path}`\n\n"
    if also:
        text += f"Also: {', '.join(f'`dstack {alias}`' for alias in also)}.\n\n"
    yield text + _indented(command.get_help(context))
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            if not inner.hidden:
                yield from _command(f"{path} {name}", inner, [])


def _indented(text: str) -> str:
    return "".join(f"    {line}".rstrip() + "\n" for line in text.rstrip().splitlines())


# --- workflows -------------------------------------------------------------------------------------------------


def workflows_page() -> str:
    common = WorkflowConfig.model_json_schema(by_alias=True)
    known: dict[str, Any] = dict(common.get("$defs", {}))
    parts = [
        "# Workflow files\n\n"
        "Written by `scripts/generate_reference.py` from the keys that workflows and providers declare. "
        "`dstack schema` writes the same as JSON Schema, for editors.\n\n"
        "## Keys of every workflow\n\n" + _table(common)
    ]
    sections: list[str] = []
    for name in providers.registry():
        provider = providers.registry()[name]
        schema = provider.Config.model_json_schema(by_alias=True)
        known.update(schema.get("$defs", {}))
        own = {key: value for key, value in schema["properties"].items() if key not in common["properties"]}
        text = (provider.__doc__ or provider.Config.__doc__ or "").strip()
        described = " ".join(text.split()) + "\n\n" if text else ""
        required = [key for key in schema.get("required", []) if key in own]
        sections.append(f"## `provider: {name}`\n\n{described}" + _table({"properties": own, "required": required}))
    for name, schema in known.items():
        if "properties" in schema:
            described = " ".join(schema.get("description", "").split())
            parts.append(f"## {_title(name)}\n\n" + (f"{described}\n\n" if described else "") + _table(schema))
    return "\n".join([*parts, *sections])


def _table(schema: Mapping[str, Any]) -> str:
    properties: dict[str, Any] = schema["properties"]
    if not properties:
        return "No keys of its own.\n"
    required = set(schema.get("required", []))
    lines = ["| Key | Value | |", "| --- | --- | --- |"]
    for key, field in properties.items():
        notes = field.get("description", "")
        if key in required:
            notes = f"Required. {notes}".strip()
        if examples := field.get("examples"):
            notes = f"{notes} For example `{key}: {examples[0]}`.".strip()
        lines.append(f"| `{key}` | {_kind(field)} | {notes.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def _kind(field: Mapping[str, Any]) -> str:
    """What a value may be, in words."""
    if "$ref" in field:
        return _link(field["$ref"])
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if any_of := field.get("anyOf") or field.get("oneOf"):
        plain = {option.get("type") for option in any_of}
        if plain >= _ANY_TEXT:
            # Numbers are read as they are spelled where a key wants text.
            any_of = [option for option in any_of if option.get("type") not in _ANY_TEXT - {"string"}]
        elif "boolean" in plain:
            any_of = [option for option in any_of if "enum" not in option]
        elif "integer" in plain:
            any_of = [option for option in any_of if "pattern" not in option]
        kinds = dict.fromkeys(_kind(option) for option in any_of if option.get("type") != "null")
        return " or ".join(kinds)
    kind = field.get("type")
    if kind == "array" and "enum" in field["items"]:
        return "a list of these"
    if isinstance(kind, list):
        return _WORDS[kind[0]]
    if kind == "array":
        return f"list of {_kind(field.get('items', {})) or 'values'}"
    if kind == "object":
        return "map"
    return _WORDS.get(str(kind), "value")


def _link(reference: str) -> str:
    title = _title(reference.rpartition("/")[2])
    return f"[{title.lower()}](#{title.lower().replace(' ', '-')})"


def _title(name: str) -> str:
    """`GpuConfig` → `Gpu`."""
    return name.removesuffix("Config") or name


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
