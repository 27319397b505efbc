from __future__ import annotations

import pytest

from dstack.sdk.scalars import parse_scalar, plain, shown, text_of


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("~", None), ("null", None), ("true", True), ("false", False),
        ("True", "True"), ("yes", "yes"), ("on", "on"),
        ("2", 2), ("-2", -2), ("+2", 2), ("017", 17), ("0x1F", 31), ("0o17", 15),
        ("3.10", 3.1), ("1e-3", 0.001), (".5", 0.5), ("5.", 5.0),
        ("1_000", "1_000"), ("12:30:45", "12:30:45"), ("2022-01-01", "2022-01-01"), ("1e999", "1e999"),
        (".inf", ".inf"), (".nan", ".nan"), ("1.2.3", "1.2.3"), ("-", "-"), ("9" * 5000, "9" * 5000), ("--x", "--x"),
    ],
)  # fmt: skip
def test_a_scalar_has_the_type_of_yaml_1_2(text: str, value: object) -> None:
    parsed = parse_scalar(text)

    assert parsed == value
    assert isinstance(parsed, bool) == isinstance(value, bool)


@pytest.mark.parametrize("text", ["3.10", "017", "0x1F", "1e-3", "2", "true", "+2", "x", "10.0"])
def test_a_scalar_remembers_its_text(text: str) -> None:
    assert text_of(parse_scalar(text)) == text


def test_null_is_the_empty_text() -> None:
    assert text_of(parse_scalar("~")) == ""


@pytest.mark.parametrize(
    ("text", "value"), [("3.10", "3.10"), ("0.5", 0.5), ("2", 2), ("017", "017"), ("true", True), ("", None)]
)
def test_plain_shows_what_was_written(text: str, value: object) -> None:
    result = plain(parse_scalar(text))

    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("value", "words"),
    [({}, "a mapping"), ([], "a list"), (None, "nothing"), (parse_scalar("3.10"), "`3.10`"), (True, "`true`")],
)
def test_shown_says_what_a_value_is(value: object, words: str) -> None:
    assert shown(value) == words


def test_shown_cuts_long_text() -> None:
    assert len(shown("x" * 1000)) < 70
