"""Filling variables into a workflow: its node tree and a scope → plain data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dstack.sdk.scalars import Scalar
from dstack.workflows.diagnostics import Invalid, Report, Source
from dstack.workflows.expressions import MAX_EXPANSION, Name
from dstack.workflows.nodes import ListNode, MapNode, Node, ScalarNode
from dstack.workflows.variables import Variable, canonical

RUN_NAMES = ("run.name", "run.args")
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
        return self.variables[canonical(name)].value


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
        return node.template.fill(lambda name: self.lookup(scalar, name))

    def lookup(self, node: ScalarNode, name: Name) -> Scalar:
        try:
            value = self.scope.lookup(name.name)
        except KeyError:
            self.missing.append(Missing(node, name))
            return _PLACEHOLDER
        if not self.budget.spend(value):
            raise _TooLarge(node)
        return value


def fill(source: Source, node: Node, scope: Scope, budget: Budget, report: Report) -> Filled:
    """`node` as plain data; raises Invalid where that makes too much text."""
    if not node.dynamic:
        return Filled(node.data)
    filler = _Filler(scope, budget)
    try:
        data = filler.fill(node)
    except _TooLarge as error:
        report.error(source, error.node.at, str(error), "shorten the variables, or use them less often")
        raise Invalid(report.diagnostics()) from None
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
