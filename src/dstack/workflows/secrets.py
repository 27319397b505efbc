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
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dstack.workflows.diagnostics import Report, Source
from dstack.workflows.expressions import Condition, Name
from dstack.workflows.nodes import ListNode, MapNode, Node, ScalarNode, expression_position

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
    in_name: bool
    """Whether it stands before the `=` of an environment's `NAME=value`."""


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
        listed = key in ENVIRONMENTS and isinstance(value, ListNode)
        for scalar in _scalars(value):
            in_name = listed
            for part in _parts(scalar):
                if isinstance(part, str):
                    in_name = in_name and "=" not in part
                elif (name := name_of(part.name)) is not None:
                    yield SecretUse(name, key, scalar, part, in_name)


def _parts(scalar: ScalarNode) -> Sequence[str | Name]:
    template = scalar.template
    if template is None:
        return ()
    return template.names if isinstance(template, Condition) else template.parts


def check_places(source: Source, workflow: MapNode, report: Report) -> None:
    """Report secrets that stand where they would be stored or shown."""
    for use in uses(workflow):
        if use.in_name:
            message, hint = "a secret cannot name a variable", f"write `NAME=${{{{ {use.place.name} }}}}`"
        elif use.key not in COMMANDS | ENVIRONMENTS:
            message = f"the secret `{use.name}` cannot stand in `{use.key}`: it would be stored and shown"
            hint = f"put it into `environment`, and use `${variable(use.name)}` or your own name"
        else:
            continue
        place = use.node, use.place.ordinal, use.place.offset
        report.error(source, use.node.at if report.full else expression_position(source, *place), message, hint)


def _scalars(node: Node) -> Iterator[ScalarNode]:
    if isinstance(node, ScalarNode):
        yield node
    elif isinstance(node, MapNode | ListNode):
        for child in node.children():
            if child.dynamic:
                yield from _scalars(child)
