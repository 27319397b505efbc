"""Filling variables into a workflow: its node tree and a scope → plain data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dstack.sdk.provider import secret_marker
from dstack.sdk.scalars import Scalar, text_of
from dstack.workflows import secrets, shell
from dstack.workflows.diagnostics import Invalid, Report, Source
from dstack.workflows.expressions import MAX_EXPANSION, Name, Template
from dstack.workflows.nodes import ListNode, MapNode, Node, ScalarNode, expression_position
from dstack.workflows.variables import Variable, canonical

RUN_NAMES = ("run.name", "run.args", "secrets.NAME")
"""What an expression may name besides variables."""

# Stands for what has no value yet: fields of every type accept it, so that everything around it can be checked.
_PLACEHOLDER = "0"


@dataclass(frozen=True, slots=True)
class Scope:
    """What names stand for in one workflow; variables by canonical name, `run_args` as one shell-quoted text."""

    variables: Mapping[str, Variable]
    run_name: str
    run_args: str

    def lookup(self, name: str) -> Scalar:
        """Raises KeyError for a name without a value."""
        if name == "run.name":
            return self.run_name
        if name == "run.args":
            return self.run_args
        variable = self.variables[canonical(name)]
        if not variable.given:
            raise KeyError(name)
        return variable.value


@dataclass(frozen=True, slots=True)
class Missing:
    """An expression whose name has no value."""

    node: ScalarNode
    name: Name


class Budget:
    """Characters that may still be made; shared by everything that is filled in together."""

    def __init__(self) -> None:
        self.left = MAX_EXPANSION

    def spend(self, value: Scalar) -> bool:
        """Whether `value` still fits."""
        self.left -= len(value) if isinstance(value, str) else 8
        return self.left >= 0


@dataclass(frozen=True, slots=True)
class Filled:
    """Plain data, and what could not be filled in (a placeholder stands there)."""

    data: Any
    missing: tuple[Missing, ...] = ()

    def missing_names(self) -> Iterator[Missing]:
        """The first expression of each name without a value."""
        seen: set[str] = set()
        for missing in self.missing:
            if missing.name.name not in seen:
                seen.add(missing.name.name)
                yield missing

    def unknown(self) -> set[int]:
        """The ids of the nodes that hold a placeholder."""
        return {id(missing.node) for missing in self.missing}


class _TooLarge(Exception):
    """Filling in makes more text than any workflow needs; `node` is where the limit was passed."""

    def __init__(self, node: ScalarNode) -> None:
        super().__init__("expressions expand to too much text")
        self.node = node


@dataclass(slots=True)
class _Filler:
    scope: Scope
    budget: Budget
    missing: list[Missing] = field(default_factory=list[Missing])
    hidden: list[Missing] = field(default_factory=list[Missing])
    """Secrets in commands where bash would not see a variable."""
    key: str = ""
    """The workflow's key whose value is filled in."""

    def workflow(self, node: MapNode) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for self.key, value in node.entries.items():
            data[self.key] = self.fill(value) if value.dynamic else value.data
        return data

    def fill(self, node: Node) -> Any:
        if not node.dynamic:
            return node.data
        if isinstance(node, MapNode):
            return {key: self.fill(value) for key, value in node.entries.items()}
        if isinstance(node, ListNode):
            return [self.fill(item) for item in node.items]
        assert isinstance(node, ScalarNode)
        assert node.template is not None
        scalar = node
        if self.key in secrets.COMMANDS and any(secrets.name_of(name.name) for name in node.template.names):
            return self.command(node, node.template)
        return node.template.fill(lambda name: self.lookup(scalar, name))

    def command(self, node: ScalarNode, template: Template) -> str:
        """A command with secrets: each becomes a reference that fits the quotes that it stands in."""
        command = shell.Command()
        pieces: list[str] = []
        for part in template.parts:
            secret = None if isinstance(part, str) else secrets.name_of(part.name)
            if isinstance(part, str):
                if not self.budget.spend(part):
                    raise _TooLarge(node)
                piece = part
            elif secret is None:
                piece = text_of(self.lookup(node, part))
            else:
                reference = command.reference(secrets.variable(secret))
                if reference is None:
                    self.hidden.append(Missing(node, part))
                pieces.append(reference or _PLACEHOLDER)
                continue
            command.write(piece)
            pieces.append(piece)
        return "".join(pieces)

    def lookup(self, node: ScalarNode, name: Name) -> Scalar:
        if (secret := secrets.name_of(name.name)) is not None:
            # Where it may not stand at all was told before (`secrets.check_places`).
            return secret_marker(secret) if self.key in secrets.ENVIRONMENTS else _PLACEHOLDER
        try:
            value = self.scope.lookup(name.name)
        except KeyError:
            self.missing.append(Missing(node, name))
            return _PLACEHOLDER
        if not self.budget.spend(value):
            raise _TooLarge(node)
        return value


def fill(source: Source, node: MapNode, scope: Scope, budget: Budget, report: Report) -> Filled:
    """The workflow at `node` as plain data; raises Invalid where that makes too much text."""
    if not node.dynamic:
        return Filled(node.data)
    filler = _Filler(scope, budget)
    try:
        data = filler.workflow(node)
    except _TooLarge as error:
        report.error(source, error.node.at, str(error), "shorten the variables, or use them less often")
        raise Invalid(report.diagnostics()) from None
    for hidden in filler.hidden:
        at = expression_position(source, hidden.node, hidden.name.ordinal)
        hint = "remove the backslash before it, or the quotes around the here-document's delimiter"
        report.error(source, at, f"bash puts no value in place of `{hidden.name.name}` here", hint)
    return Filled(data, tuple(filler.missing))


def names_used(node: Node) -> Iterator[str]:
    """The names of all expressions under `node`."""
    if not node.dynamic:
        return
    if isinstance(node, ScalarNode):
        yield from (name.name for name in node.template.names) if node.template is not None else ()
    else:
        children = (
            node.entries.values() if isinstance(node, MapNode) else node.items if isinstance(node, ListNode) else ()
        )
        for child in children:
            yield from names_used(child)
