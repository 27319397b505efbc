"""Conditions with values put into them come to what a second, plain evaluator makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from dstack.domain import rules
from dstack.domain.rules import And, Compare, Literal, Name, Not, Or, Rule, Status
from dstack.sdk.scalars import Scalar, parse_scalar, text_of
from dstack.workflows import conditions, expressions
from dstack.workflows.diagnostics import Report, Source
from dstack.workflows.nodes import ScalarNode

VALUES: dict[str, Scalar] = {
    "yes": True, "no": False, "none": None, "empty": "", "zero": 0, "two": 2, "version": parse_scalar("3.10"),
    "half": parse_scalar("0.5"), "full": "full", "word": "On", "text-two": "2",
}  # fmt: skip

names = st.sampled_from(list(VALUES)).map(Name)
literals = st.one_of(
    st.sampled_from(["full", "2", "3.10", "true", "", "it's"]).map(lambda text: Literal(text, quoted=True)),
    st.sampled_from(["true", "false", "0", "2", "3.10", "3.1", "0.50", "-1"]).map(Literal),
)


def joined(inner: st.SearchStrategy[Rule]) -> st.SearchStrategy[Rule]:
    parts = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return st.one_of(inner.map(Not), parts.map(And), parts.map(Or))


values: st.SearchStrategy[Rule] = st.recursive(
    names | literals, lambda inner: joined(inner) | st.builds(Compare, inner, inner, st.booleans()), max_leaves=6
)
statuses: st.SearchStrategy[Rule] = st.sampled_from([Status("success"), Status("failed"), Status("always")])
whole = st.recursive(statuses | values, joined, max_leaves=6)


class Neither(Exception):
    """A value that is neither true nor false stands where one of them must."""


@dataclass
class Plain:
    """Evaluates without folding; both sides always, as the planner does."""

    success: bool
    failed: bool

    def truth(self, rule: Rule) -> bool:
        match rule:
            case Status(name):
                return {"success": self.success, "failed": self.failed, "always": True}[name]
            case Not(inner):
                return not self.truth(inner)
            case And(parts):
                return not [part for part in parts if not self.truth(part)]
            case Or(parts):
                return bool([part for part in parts if self.truth(part)])
            case _:
                word = self.text(rule).lower()
                if word in ("", "false", "no", "off"):
                    return False
                if word in ("true", "yes", "on"):
                    return True
                if isinstance(self.value(rule), str):
                    raise Neither
                return float(word) != 0

    def value(self, rule: Rule) -> Scalar:
        match rule:
            case Name(name):
                return VALUES[name]
            case Literal(text, quoted):
                return text if quoted else parse_scalar(text)
            case Compare(left, right, equal):
                return self.same(left, right) is equal
            case _:
                return self.truth(rule)

    def text(self, rule: Rule) -> str:
        return text_of(self.value(rule))

    def same(self, left: Rule, right: Rule) -> bool:
        both = [self.value(left), self.value(right)]
        if all(type(value).__mro__[-2] in (int, float) and not isinstance(value, bool) for value in both):
            return float(self.text(left)) == float(self.text(right))
        return self.text(left) == self.text(right)


def read(rule: Rule) -> tuple[conditions.StepRule, Report]:
    text = rules.render(rule)
    node = ScalarNode(1, 1, text, 0, len(text), plain=True)
    node.template = expressions.condition(text)
    report = Report()
    lookup: Callable[[str], Scalar] = VALUES.__getitem__
    return conditions.read(Source("f.yaml", text), node, lookup, report), report


@given(whole, st.sampled_from([(True, False), (False, True), (False, False)]))
def test_a_condition_comes_to_what_it_says(rule: Rule, ended: tuple[bool, bool]) -> None:
    success, failed = ended
    found, report = read(rule)

    try:
        expected = Plain(success, failed).truth(rule)
    except Neither:
        assert report.errors
        return
    assert not report.errors
    if not any(isinstance(part, Status) for part in rules.walk(rule)):
        expected = success and expected
    assert rules.judge(rules.parse(found.rule), success=success, failed=failed) is expected


@given(whole)
def test_what_is_stored_names_nothing(rule: Rule) -> None:
    found, _ = read(rule)

    assert not any(isinstance(part, Name | Compare) for part in rules.walk(rules.parse(found.rule)))
