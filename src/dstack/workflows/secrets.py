"""Values that never show: secrets of the repository, `${{ secrets.NAME }}`, and values of the caller's shell.

| Where a secret stands | What it becomes |
|---|---|
| a value of `environment` or `env`, also within a longer text | a marker, which the runner replaces |
| `commands`, `before_run`, `setup` | a reference to the variable `DSTACK_SECRET_NAME`, quoted as its place needs |
| anywhere else | an error: it would be stored and shown |

`-e NAME` and `env: [NAME]` take the value of the shell that submits; it goes the same way, under the name `env:NAME`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from dstack.workflows.diagnostics import Report, Source
from dstack.workflows.expressions import Name
from dstack.workflows.nodes import ListNode, MapNode, Node, ScalarNode, expression_position

CALLERS = "env:"
"""Begins the name of a value of the caller's shell."""
COMMANDS = frozenset(("commands", "before_run", "setup"))
ENVIRONMENTS = frozenset(("environment", "env"))

_PREFIX = "secrets."
_NOT_OF_A_NAME = re.compile(r"[^A-Za-z0-9_]")


class SecretUse(NamedTuple):
    """A `${{ secrets.NAME }}` under the key `key` of a workflow."""

    name: str
    key: str
    node: ScalarNode
    place: Name


def name_of(expression: str) -> str | None:
    """`NAME` of `secrets.NAME`; None for an expression that names no secret."""
    name = expression.removeprefix(_PREFIX)
    return None if name == expression or "." in name else name


def variable(name: str) -> str:
    """The environment variable that commands find a secret in."""
    return f"DSTACK_SECRET_{_NOT_OF_A_NAME.sub('_', name)}"


def uses(workflow: MapNode) -> Iterator[SecretUse]:
    """The secrets that a workflow names."""
    for key, value in workflow.entries.items():
        if not value.dynamic:
            continue
        for scalar in _scalars(value):
            for place in scalar.template.names if scalar.template is not None else ():
                if (name := name_of(place.name)) is not None:
                    yield SecretUse(name, key, scalar, place)


def check_places(source: Source, workflow: MapNode, report: Report) -> None:
    """Report secrets that stand where they would be stored or shown."""
    for use in uses(workflow):
        at = expression_position(source, use.node, use.place.ordinal, use.place.offset)
        if use.key in ENVIRONMENTS:
            if isinstance(workflow.entries[use.key], ListNode) and "=" not in _before(use):
                report.error(source, at, "a secret cannot name a variable", f"write `NAME=${{{{ {use.place.name} }}}}`")
        elif use.key not in COMMANDS:
            message = f"the secret `{use.name}` cannot stand in `{use.key}`: it would be stored and shown"
            report.error(
                source, at, message, f"put it into `environment`, and use `${variable(use.name)}` or your own name"
            )


def _before(use: SecretUse) -> str:
    """What stands before a secret in its scalar."""
    parts = use.node.template.parts if use.node.template is not None else ()
    return "".join(part for part in parts[: parts.index(use.place)] if isinstance(part, str))


def _scalars(node: Node) -> Iterator[ScalarNode]:
    if isinstance(node, ScalarNode):
        yield node
    elif isinstance(node, MapNode | ListNode):
        for child in node.children():
            if child.dynamic:
                yield from _scalars(child)
