"""The language of `if:`: what reads as what, what does not and where, and what a rule comes to."""

from __future__ import annotations

import re
from itertools import product

import pytest

from dstack.domain.rules import (
    MAX_DEPTH,
    MAX_LENGTH,
    And,
    BadRule,
    Compare,
    Literal,
    Name,
    Not,
    Or,
    Rule,
    Status,
    judge,
    parse,
    render,
    verdict,
    walk,
)

A, B, C = Name("a"), Name("b"), Name("c")
FULL = Literal("full", quoted=True)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("success()", Status("success")),
        ("  failed ( )", None),
        ("always( )", Status("always")),
        ("a", A),
        ("batch-size", Name("batch-size")),
        ("run.name", Name("run.name")),
        ("true", Literal("true")),
        ("'it''s'", Literal("it's", quoted=True)),
        ('"a ""b"""', Literal('a "b"', quoted=True)),
        ("3.10", Literal("3.10")),
        ("-1e-3", Literal("-1e-3")),
        ("a == 'full'", Compare(A, FULL, equal=True)),
        ("a!='full'", Compare(A, FULL, equal=False)),
        ("${{ a }} == 'full'", Compare(A, FULL, equal=True)),
        ("${{ a == 'full' }}", Compare(A, FULL, equal=True)),
        ("not a and b", And((Not(A), B))),
        ("not (a and b)", Not(And((A, B)))),
        ("not not a", Not(Not(A))),
        ("a or b and c", Or((A, And((B, C))))),
        ("(a or b) and c", And((Or((A, B)), C))),
        ("a and b and c", And((A, B, C))),
        ("(a and b) and c", And((And((A, B)), C))),
        ("not a == b", Not(Compare(A, B, equal=True))),
        ("success()\n  and a\n", And((Status("success"), A))),
        ("nothing and order", And((Name("nothing"), Name("order")))),
    ],
)
def test_reading_and_writing(text: str, rule: Rule | None) -> None:
    if rule is None:
        with pytest.raises(BadRule):
            parse(text)
        return
    assert parse(text) == rule
    assert parse(render(rule)) == rule


def test_names_know_where_they_stand() -> None:
    assert [part.at for part in walk(parse("a and ${{ run.name }} == b")) if isinstance(part, Name)] == [0, 10, 25]


@pytest.mark.parametrize(
    ("text", "at", "message", "hint"),
    [
        ("", 0, "the end is not expected here", ""),
        ("a and", 5, "the end is not expected here", "write for example"),
        ("a b", 2, "`b` is not expected here", "`and` or `or`"),
        ("(a", 0, "`(` is not closed with `)`", "add `)`"),
        ("${{ a", 0, "`${{` is not closed with `}}`", "add `}}`"),
        ("(a }}", 3, "`}}` is not expected here", "`(` is closed with `)`"),
        ("a)", 1, "`)` is not expected here", ""),
        ("a = b", 2, "`= b` cannot be read in a condition", "write `==`"),
        ("a && b", 2, "`&& b` cannot be read in a condition", "write `and`"),
        ("a || b", 2, "`|| b` cannot be read in a condition", "write `or`"),
        ("!a", 0, "`!a` cannot be read in a condition", "write `not`"),
        ("a < 3", 2, "`< 3` cannot be read in a condition", "`==` and `!=` only"),
        ("a == b == c", 7, "`==` is not expected here", "two values at a time"),
        ("a == 'x", 5, "`'x` cannot be read in a condition", "close the quote"),
        ("success", 0, "`success` is a function", "write `success()`"),
        ("failure()", 0, "there is no function `failure()`", "known: `success()`, `failed()`, `always()`"),
        ("failed(prepare)", 7, "`failed()` takes nothing", "write `failed()`"),
        ("success() == true", 10, "`success()` cannot be compared", "`not success()` alone"),
        ("a != (b or failed())", 2, "`failed()` cannot be compared", ""),
        ("a and not", 9, "the end is not expected here", ""),
        ("and", 0, "`and` is not expected here", ""),
        ("3a", 0, "`3a` cannot be read in a condition", ""),
        ("1.2.3", 0, "`1.2.3` cannot be read in a condition", ""),
        ("(" * (MAX_DEPTH + 1) + "a", MAX_DEPTH, "nested deeper", "brackets"),
        ("not " * (MAX_DEPTH + 1) + "a", 4 * MAX_DEPTH, "nested deeper", "brackets"),
        ("a or " * MAX_LENGTH, MAX_LENGTH, "at most 4,000 characters", "shorten"),
        ("a" + "\0", 1, "cannot be read", ""),
    ],
)
def test_what_is_no_rule_says_where(text: str, at: int, message: str, hint: str) -> None:
    with pytest.raises(BadRule, match=re.escape(message)) as caught:
        parse(text)
    assert caught.value.at == at
    assert hint in caught.value.hint


def test_a_rule_as_long_as_one_can_be_is_read_at_once() -> None:
    text = " or ".join(["a == b"] * 400)
    assert parse(render(parse(text))) == parse(text)


@pytest.mark.parametrize(
    ("text", "table"),
    [
        # success, failed → what it comes to; "?" for not known
        ("success()", {"yes no": True, "no yes": False, "? ?": None}),
        ("failed()", {"yes no": False, "no yes": True, "? ?": None}),
        ("always()", {"yes no": True, "no yes": True, "? ?": True}),
        ("not success()", {"yes no": False, "no yes": True, "? ?": None}),
        ("success() and true", {"yes no": True, "no yes": False, "? ?": None}),
        ("success() and false", {"? ?": False}),
        ("failed() or true", {"? ?": True}),
        ("success() or failed()", {"no no": False, "no ?": None, "? yes": True}),
        ("not (success() and false)", {"? ?": True}),
    ],
)
def test_judging_before_all_is_known(text: str, table: dict[str, bool | None]) -> None:
    words = {"yes": True, "no": False, "?": None}
    for case, expected in table.items():
        success, failed = (words[word] for word in case.split())
        assert judge(parse(text), success=success, failed=failed) is expected, case


@pytest.mark.parametrize("text", ["a", "a == b", "'x'", "3"])
def test_a_rule_that_was_not_filled_in_is_not_judged(text: str) -> None:
    with pytest.raises(ValueError, match="not filled in"):
        judge(parse(text), success=True, failed=False)


def test_no_step_begins_before_its_dependencies_are_over() -> None:
    rules = ("success()", "failed()", "always()", "true", "not success()")
    for rule, failed, skipped in product(rules, (False, True), (False, True)):
        assert verdict(rule, over=False, need_failed=failed, need_skipped=skipped) is not True
        assert verdict(rule, over=True, need_failed=failed, need_skipped=skipped) is not None
