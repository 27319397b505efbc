"""`${{ name }}` in values: parsing and filling in.

An expression is a name with dots: a variable, `run.name`, `run.args` or `secrets.NAME`. A scalar that is one expression
and nothing else keeps the type of its value; `$${{` stands for a literal `${{`. The value of `if:` is a condition
instead (`dstack.domain.rules`), which names variables with and without `${{ }}`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from dstack.domain import rules
from dstack.domain.rules import Rule
from dstack.sdk.scalars import Scalar, text_of

MAX_EXPANSION = 16 * 2**20
"""Characters that filling in may make of one set of files."""

_OPEN = re.compile(r"\$?\$\{\{")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z_][A-Za-z0-9_-]*)*")


@dataclass(frozen=True, slots=True)
class Name:
    """A `${{ name }}`; `ordinal` counts the `${{` before it in the scalar, to find it in the file again.

    A name in a condition has an `offset` in the scalar's text instead, and -1 for the ordinal.
    """

    name: str
    ordinal: int
    offset: int = -1


@dataclass(frozen=True, slots=True)
class Template:
    """A scalar with expressions, in pieces; `names` are those among them."""

    parts: tuple[str | Name, ...]
    names: tuple[Name, ...] = ()

    def fill(self, lookup: Callable[[Name], Scalar]) -> Scalar:
        """The value; `lookup` says what a name stands for."""
        if len(self.parts) == 1 and isinstance(self.parts[0], Name):
            return lookup(self.parts[0])
        return "".join(part if isinstance(part, str) else text_of(lookup(part)) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Condition(Template):
    """The value of `if:`. Filled in, it is its own text: what names stand for is put into the rule (`conditions`)."""

    rule: Rule = rules.TRUE

    def fill(self, lookup: Callable[[Name], Scalar]) -> Scalar:
        for name in self.names:
            lookup(name)
        return str(self.parts[0])


class BadExpression(ValueError):
    """A `${{` that cannot be read, or a condition: `ordinal` and `offset` say where, as those of `Name`."""

    def __init__(self, message: str, ordinal: int, hint: str, offset: int = -1) -> None:
        super().__init__(message)
        self.ordinal = ordinal
        self.hint = hint
        self.offset = offset


def parse(text: str) -> Template | None:
    """The pieces of `text`, or None where there is no `${{` in it; raises BadExpression."""
    if "${{" not in text:
        return None
    parts: list[str | Name] = []
    literal: list[str] = []
    position = ordinal = 0
    while (match := _OPEN.search(text, position)) is not None:
        literal.append(text[position : match.start()])
        if match[0] == "$${{":
            literal.append("${{")
            position = match.end()
        else:
            if before := "".join(literal):
                parts.append(before)
            literal.clear()
            name, position = _name(text, match.end(), ordinal)
            parts.append(name)
        ordinal += 1
    if rest := "".join(literal) + text[position:]:
        parts.append(rest)
    return Template(tuple(parts), tuple([part for part in parts if isinstance(part, Name)]))


@lru_cache(maxsize=256)
def condition(text: str) -> Condition:
    """The condition that `text` says; raises BadExpression."""
    try:
        rule = rules.parse(text)
    except rules.BadRule as error:
        raise BadExpression(str(error), -1, error.hint, error.at) from None
    names = tuple([Name(part.name, -1, part.at) for part in rules.walk(rule) if isinstance(part, rules.Name)])
    return Condition((text,), names, rule)


def _name(text: str, start: int, ordinal: int) -> tuple[Name, int]:
    """The name after a `${{` that ends at `start`, and where the text goes on."""
    end = text.find("}}", start)
    nested = text.find("${{", start)
    if end < 0 or 0 <= nested < end:
        hint = "write `${{ name }}`, or `$${{` for a literal `${{`"
        raise BadExpression("`${{` is not closed with `}}`", ordinal, hint)
    name = text[start:end].strip()
    if not name:
        raise BadExpression("`${{ }}` names nothing", ordinal, "write the name of a variable: `${{ seed }}`")
    if _NAME.fullmatch(name) is None:
        shown = name if len(name) <= 60 else name[:60] + "…"
        hint = "an expression is a name, with dots: `${{ seed }}`, `${{ run.name }}`"
        if not name.isascii():
            hint = "names have only the letters a to z, digits, `-` and `_`"
        raise BadExpression(f"`{shown}` is not a name", ordinal, hint)
    return Name(name, ordinal), end + 2
