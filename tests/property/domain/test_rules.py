"""The language of `if:`: reading never fails in another way than with a place, and loses nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dstack.domain.rules import And, BadRule, Compare, Literal, Name, Not, Or, Rule, Status, judge, parse, render

PIECES = [
    "success()", "failed()", "always()", "success", "(", ")", "${{", "}}", "and", "or", "not", "==", "!=", "=", "&&",
    "a", "run.name", "batch-size", "true", "false", "'x'", '"', "'", "3.10", "-1", ".", " ", "  ", "\n", "\0", "é", ",",
]  # fmt: skip
pieces = st.lists(st.sampled_from(PIECES), max_size=25).map(" ".join)

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,5}(\.[A-Za-z_][A-Za-z0-9_-]{0,3})?", fullmatch=True).filter(
    lambda name: name not in ("and", "or", "not", "true", "false", "success", "failed", "always")
)
statuses: st.SearchStrategy[Rule] = st.sampled_from([Status("success"), Status("failed"), Status("always")])
truths: st.SearchStrategy[Rule] = st.sampled_from([Literal("true"), Literal("false")])
literals: st.SearchStrategy[Rule] = st.one_of(
    truths,
    st.text(max_size=6).map(lambda text: Literal(text, quoted=True)),
    st.integers().map(lambda number: Literal(str(number))).filter(lambda literal: len(literal.text) < 40),
)


def joined(inner: st.SearchStrategy[Rule]) -> st.SearchStrategy[Rule]:
    parts = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return st.one_of(inner.map(Not), parts.map(And), parts.map(Or))


def compared(inner: st.SearchStrategy[Rule]) -> st.SearchStrategy[Rule]:
    return joined(inner) | st.builds(Compare, inner, inner, st.booleans())


values = st.recursive(literals | names.map(Name), compared, max_leaves=6)
rules = st.recursive(statuses | values, joined, max_leaves=6)
closed = st.recursive(statuses | truths, joined, max_leaves=10)


@given(pieces | st.text())
def test_any_text_is_a_rule_or_says_where_it_is_none(text: str) -> None:
    try:
        rule = parse(text)
    except BadRule as error:
        found = error
    else:
        assert parse(render(rule)) == rule
        return
    assert 0 <= found.at <= len(text)
    assert str(found)


@given(rules)
def test_any_rule_comes_back_as_it_was(rule: Rule) -> None:
    assert parse(render(rule)) == rule


def in_python(rule: Rule, success: bool, failed: bool) -> bool:
    """The same question to another evaluator: Python's own."""
    text = render(rule).replace("always()", "True").replace("true", "True").replace("false", "False")
    return eval(text, {"success": lambda: success, "failed": lambda: failed})


@given(closed, st.booleans(), st.booleans())
def test_a_rule_comes_to_what_python_makes_of_it(rule: Rule, success: bool, failed: bool) -> None:
    assert judge(rule, success=success, failed=failed) is in_python(rule, success, failed)


@given(closed)
def test_what_is_known_early_is_what_it_comes_to(rule: Rule) -> None:
    early = judge(rule, success=None, failed=None)
    if early is not None:
        for success, failed in ((True, False), (False, True), (False, False), (True, True)):
            assert judge(rule, success=success, failed=failed) is early
