from __future__ import annotations

import re

import pytest

from dstack.workflows.expressions import BadExpression, Name, Template, parse

VALUES = {"seed": 2, "run.name": "goose-1", "batch-size": 64, "nothing": None}


def filled(text: str) -> object:
    template = parse(text)
    assert template is not None
    return template.fill(lambda name: VALUES[name.name])


def test_text_without_an_expression_is_no_template() -> None:
    assert parse("echo $HOME {{ seed }} ${seed}") is None


def test_one_expression_keeps_the_type() -> None:
    assert filled("${{ seed }}") == 2
    assert filled("${{seed}}") == 2
    assert filled("${{ nothing }}") is None


def test_expressions_within_text_become_text() -> None:
    assert filled("a ${{ seed }}-${{batch-size}} b") == "a 2-64 b"
    assert filled("${{ seed }}${{ seed }}") == "22"
    assert filled("${{ run.name }}.log") == "goose-1.log"
    assert filled("x${{ nothing }}") == "x"


def test_a_doubled_dollar_escapes() -> None:
    assert filled("$${{ seed }} is ${{ seed }}") == "${{ seed }} is 2"
    assert filled("$$${{ seed }}") == "$${{ seed }}"
    assert parse("$${{") == Template(("${{",))


def test_names_know_how_many_openings_come_before_them() -> None:
    template = parse("$${{ a }} ${{ b }} ${{ c }}")

    assert template is not None
    assert template.names == (Name("b", 1), Name("c", 2))


@pytest.mark.parametrize(
    ("text", "message", "ordinal"),
    [
        ("a ${{ seed", "not closed", 0),
        ("${{ a ${{ b }}", "not closed", 0),
        ("${{ a }} ${{ b", "not closed", 1),
        ("${{ }}", "names nothing", 0),
        ("${{ a + b }}", "`a + b` is not a name", 0),
        ("$${{ x }} ${{ 1a }}", "`1a` is not a name", 1),
        ("${{ a. }}", "is not a name", 0),
        ("${{ a..b }}", "is not a name", 0),
        ("${{ ä }}", "is not a name", 0),
    ],
)
def test_what_is_no_expression_says_where(text: str, message: str, ordinal: int) -> None:
    with pytest.raises(BadExpression, match=re.escape(message)) as caught:
        parse(text)

    assert caught.value.ordinal == ordinal
    assert caught.value.hint
