"""Whatever pydantic says about a value of a provider's `Config` is said in words of ours, at the value's place."""

from __future__ import annotations

from datetime import date, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import AnyUrl, BaseModel, ConfigDict, Field, field_validator
from pydantic_core._pydantic_core import list_all_errors

from dstack.workflows.checking import Subject, check
from dstack.workflows.composing import compose
from dstack.workflows.diagnostics import Report, Source
from dstack.workflows.sentences import EXPECTED, TOLD, sentence

ALL = {error["type"]: error for error in list_all_errors()}


@pytest.mark.parametrize("kind", ALL)
def test_every_error_of_pydantic_has_words(kind: str) -> None:
    example = ALL[kind]

    words = sentence(kind, example["example_message_python"], example.get("example_context") or {}, "x")

    assert words
    for jargon in ("Input", "input should", "dictionary", "string", "Field required", "instance", "parse"):
        assert jargon not in words
    assert "{" not in words


def test_no_words_are_for_errors_that_pydantic_does_not_have() -> None:
    assert set(EXPECTED) | set(TOLD) <= set(ALL)


class Layer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["conv"]
    size: int


class Dropout(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["dropout"]
    rate: Annotated[float, Field(gt=0, lt=1)]


class Config(BaseModel):
    """What somebody's provider may look like who knows pydantic and not dstack."""

    model_config = ConfigDict(extra="forbid")

    required: int
    ports: int | list[int] = 0
    either: int | bool | None = None
    layer: Layer | Dropout | None = None
    tagged: Annotated[Layer | Dropout, Field(discriminator="kind")] | None = None
    layers: list[Layer] = []
    counts: dict[str, int] = {}
    named: dict[Literal["a", "b"], int] = {}
    mode: Literal["fast", "slow"] = "fast"
    share: Annotated[float, Field(ge=0, le=1)] = 0
    few: Annotated[list[int], Field(min_length=2, max_length=3)] = [1, 2]
    code: Annotated[str, Field(pattern="^[a-z]+$", max_length=5)] = "a"
    day: date | None = None
    at: time | None = None
    wait: timedelta | None = None
    url: AnyUrl | None = None
    id: UUID | None = None
    money: Annotated[Decimal, Field(max_digits=3)] = Decimal(1)
    odd: int = 1

    @field_validator("odd")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"{value} is even")
        return value


def said(text: str) -> list[tuple[int | None, int | None, str, str]]:
    report = Report()
    source = Source("f.yaml", text)
    node = compose(source, report)
    assert node is not None
    data: Any = node.data
    assert check(Config, Subject(source, node, data), report) is None
    return [(found.line, found.column, found.message, found.hint) for found in report.diagnostics()]


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("ports: x", 8, "`ports`: expected a whole number or a list, not `x`"),
        ("ports: [1, x]", 12, "`ports[1]`: expected a whole number, not `x`"),
        ("ports: {a: 1}", 8, "`ports`: expected a whole number or a list, not a mapping"),
        ("either: x", 9, "`either`: expected a whole number or true or false, not `x`"),
        ("layer: {kind: conv, size: x}", 27, "`layer.size`: expected a whole number, not `x`"),
        ("layer: 3", 8, "`layer`: expected `key: value` lines, not `3`"),
        ("tagged: {kind: pool}", 9, "`pool` is not known here; one of `conv`, `dropout`"),
        ("tagged: {kind: dropout, rate: 2}", 31, "`tagged.rate`: must be less than 1.0, not `2`"),
        ("layers: [{kind: conv, size: []}]", 29, "`layers[0].size`: expected a whole number, not a list"),
        ("counts: {a: x}", 13, "`counts.a`: expected a whole number, not `x`"),
        ("counts: [a]", 9, "`counts`: expected `key: value` lines, not a list"),
        ("named: {c: 1}", 9, "`named.c`: must be `a` or `b`, not `c`"),
        ("mode: quick", 7, "`mode`: must be `fast` or `slow`, not `quick`"),
        ("share: 2", 8, "`share`: must be at most 1.0, not `2`"),
        ("few: [1]", 6, "`few`: must have at least 2 items"),
        ("few: [1, 2, 3, 4]", 6, "`few`: must have at most 3 items"),
        ("code: A", 7, "`A` does not match the pattern `^[a-z]+$`"),
        ("code: abcdef", 7, "`code`: must have at most 5 characters, not `abcdef`"),
        ("day: soon", 6, "`day`: expected a date such as `2026-11-26`, not `soon`"),
        ("at: noon", 5, "`at`: expected a time such as `12:30`, not `noon`"),
        ("wait: long", 7, "`wait`: expected a duration such as `PT30S`, not `long`"),
        ("url: here", 6, "`url`: expected a URL such as `https://example.org/data`, not `here`"),
        ("id: 5", 5, "`id`: expected a UUID, not `5`"),
        ("money: 12.345", 8, "`money`: must have at most 3 digits, not `12.345`"),
        ("odd: 4", 6, "`odd`: 4 is even"),
        ("odd: 4.5", 6, "`odd`: expected a whole number, not `4.5`"),
    ],
)
def test_a_provider_of_somebody_else_gets_words_too(text: str, column: int, message: str) -> None:
    assert [found[:3] for found in said(f"required: 1\n{text}\n")] == [(2, column, message)]


def test_a_misspelled_key_is_not_also_missing() -> None:
    assert said("requird: 1\n") == [(1, 1, "unknown key `requird`", "did you mean `required`?")]
    assert {found[2] for found in said("colour: red\n")} == {"`required` is missing", "unknown key `colour`"}
