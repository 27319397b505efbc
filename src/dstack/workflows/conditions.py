"""`if:` of a workflow: what variables stand for is put into its rule; the rest depends on how dependencies end.

A name on its own must be true or false: a flag, a number (0 is false), nothing (false), or one of the words that flags
are written with. `==` compares numbers as numbers and everything else as it is written, so that `true` equals 'true'
and a version `3.10` equals '3.10'. A condition that asks for no status means `success() and (…)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dstack.domain import rules
from dstack.domain.rules import FALSE, SUCCESS, TRUE, And, Compare, Literal, Name, Not, Or, Rule, Status
from dstack.sdk.scalars import Scalar, parse_scalar, same, shown, text_of
from dstack.workflows.diagnostics import Report, Source
from dstack.workflows.expressions import Condition
from dstack.workflows.nodes import Node, ScalarNode, expression_position

Lookup = Callable[[str], Scalar]
"""What a name stands for; raises KeyError, which whoever fills in the workflow reports."""

_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False, "": False}


@dataclass(frozen=True, slots=True)
class StepRule:
    """A rule for the step's table, and the condition as it was written (empty: there is none)."""

    rule: str = SUCCESS
    condition: str = ""


def read(source: Source, node: Node | None, lookup: Lookup, report: Report) -> StepRule:
    """The rule that the value of `if:` comes to; reports what is neither true nor false."""
    if not isinstance(node, ScalarNode) or not isinstance(node.template, Condition):
        return StepRule()
    parsed = node.template.rule
    filled = _Filler(source, node, lookup, report).fill(parsed)
    if not any(isinstance(part, Status) for part in rules.walk(parsed)):
        filled = _joined([Status("success"), filled], And)
    return StepRule(rules.render(filled), " ".join(node.text.split()))


def truth(value: Scalar) -> bool | None:
    """What a value says on its own; None for one that is neither true nor false."""
    if isinstance(value, str):
        return _WORDS.get(value.lower())
    return bool(value)


class _Filler:
    def __init__(self, source: Source, node: ScalarNode, lookup: Lookup, report: Report) -> None:
        self.source = source
        self.node = node
        self.lookup = lookup
        self.report = report

    def fill(self, rule: Rule) -> Rule:
        """`rule` without names and comparisons, and without constants where it is none itself."""
        match rule:
            case Status():
                return rule
            case Not(inner):
                filled = self.fill(inner)
                return FALSE if filled == TRUE else TRUE if filled == FALSE else Not(filled)
            case And(parts):
                return _joined([self.fill(part) for part in parts], And)
            case Or(parts):
                return _joined([self.fill(part) for part in parts], Or)
            case _:
                return self._truth(rule)

    def _truth(self, rule: Name | Literal | Compare) -> Rule:
        try:
            value = self._value(rule)
        except KeyError:
            return FALSE
        known = truth(value)
        if known is None and not isinstance(rule, Compare):
            at = expression_position(self.source, self.node, -1, rule.at)
            written = f"`{rule.name}` is {shown(value)}, which is" if isinstance(rule, Name) else f"{shown(value)} is"
            hint = f"compare it: `{rules.render(Compare(rule, Literal(text_of(value), quoted=True), equal=True))}`"
            self.report.error(self.source, at, f"{written} neither true nor false", hint)
        return TRUE if known else FALSE

    def _value(self, rule: Rule) -> Scalar:
        match rule:
            case Name(name):
                return self.lookup(name)
            case Literal(text, quoted):
                return text if quoted else parse_scalar(text)
            case Compare(left, right, is_equal):
                return same(self._value(left), self._value(right)) is is_equal
            case _:
                return self.fill(rule) == TRUE


def _joined(parts: Sequence[Rule], kind: type[And] | type[Or]) -> Rule:
    """`parts` joined, without those that change nothing."""
    decides, neutral = (FALSE, TRUE) if kind is And else (TRUE, FALSE)
    if decides in parts:
        return decides
    left = tuple(part for part in parts if part != neutral)
    return neutral if not left else left[0] if len(left) == 1 else kind(left)
