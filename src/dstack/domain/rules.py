"""The language of `if:`: reading a condition, writing it, and judging it before all that it asks about is known.

    rule       = both {"or" both}
    both       = negation {"and" negation}
    negation   = "not" negation | comparison
    comparison = value [("==" | "!=") value]
    value      = "(" rule ")" | "${{" rule "}}" | status "()" | name | text | number | "true" | "false"
    status     = "success" | "failed" | "always"

A name has dots and dashes (`batch-size`, `run.name`); a text stands in single or double quotes, which are doubled
within it. Planning puts values in place of names; what is left, statuses and truths, is kept as `steps.rule` and
judged each time a dependency ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal as OneOf

MAX_LENGTH = 4000
"""Characters of a rule."""
MAX_DEPTH = 40
"""Brackets and `not` within each other."""

SUCCESS = "success()"
"""The rule of a step that says none."""
STATUSES = ("success", "failed", "always")

StatusName = OneOf["success", "failed", "always"]


@dataclass(frozen=True, slots=True)
class Status:
    """`success()`: every dependency succeeded. `failed()`: one did not. `always()`: true once all have ended."""

    name: StatusName


@dataclass(frozen=True, slots=True)
class Name:
    """A variable, `run.name` or `run.args`; `at` is where it stands in the rule's text."""

    name: str
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Literal:
    """A text in quotes, or a number, `true` or `false` as it is written."""

    text: str
    quoted: bool = False
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Compare:
    left: Rule
    right: Rule
    equal: bool
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Not:
    rule: Rule


@dataclass(frozen=True, slots=True)
class And:
    parts: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Or:
    parts: tuple[Rule, ...]


Rule = Status | Name | Literal | Compare | Not | And | Or

TRUE = Literal("true")
FALSE = Literal("false")


class BadRule(ValueError):
    """A text that is no rule; `at` is where reading it ended."""

    def __init__(self, message: str, at: int, hint: str = "") -> None:
        super().__init__(message)
        self.at = at
        self.hint = hint


def parse(text: str) -> Rule:
    """The rule that `text` says; raises BadRule."""
    if len(text) > MAX_LENGTH:
        raise BadRule(f"a condition has at most {MAX_LENGTH:,} characters", MAX_LENGTH, "shorten it")
    return _Reader(text).whole()


def render(rule: Rule) -> str:
    """The rule as text, which `parse` reads as an equal rule."""
    match rule:
        case Status(name):
            return f"{name}()"
        case Name(name):
            return name
        case Literal(text, quoted):
            return "'" + text.replace("'", "''") + "'" if quoted else text
        case Compare(left, right, equal):
            return f"{_inner(left, _VALUE)} {'==' if equal else '!='} {_inner(right, _VALUE)}"
        case Not(inner):
            return f"not {_inner(inner, (*_VALUE, Compare, Not))}"
        case And(parts):
            return " and ".join(_inner(part, (*_VALUE, Compare, Not)) for part in parts)
        case Or(parts):
            return " or ".join(_inner(part, (*_VALUE, Compare, Not, And)) for part in parts)


def walk(rule: Rule) -> Iterator[Rule]:
    """The rule and everything within it, from left to right."""
    yield rule
    match rule:
        case Compare(left, right):
            yield from walk(left)
            yield from walk(right)
        case Not(inner):
            yield from walk(inner)
        case And(parts) | Or(parts):
            for part in parts:
                yield from walk(part)
        case _:
            pass


def judge(rule: Rule, *, success: bool | None, failed: bool | None) -> bool | None:
    """What a rule without names comes to; None while it depends on a status that is not known (None) yet.

    Raises ValueError for a rule that planning has not filled in.
    """
    match rule:
        case Status(name):
            return {"success": success, "failed": failed, "always": True}[name]
        case Literal("true" | "false" as text, False):
            return text == "true"
        case Not(inner):
            known = judge(inner, success=success, failed=failed)
            return None if known is None else not known
        case And(parts) | Or(parts):
            decides = isinstance(rule, Or)
            found = {judge(part, success=success, failed=failed) for part in parts}
            return decides if decides in found else None if None in found else not decides
        case _:
            raise ValueError(f"not filled in: {render(rule)}")


@lru_cache(maxsize=512)
def verdict(rule: str, *, over: bool, need_failed: bool, need_skipped: bool) -> bool | None:
    """Whether a step may begin: True, False, or None while that is open.

    `over`: all jobs of all its dependencies have ended. A rule that asks for `failed()` or `always()` is judged only
    then; any other is false as soon as a failure makes it so. A step never begins before its dependencies are over.
    """
    parsed = parse(rule)
    if over:
        return judge(parsed, success=not (need_failed or need_skipped), failed=need_failed)
    if any(isinstance(part, Status) and part.name != "success" for part in walk(parsed)):
        return None
    # A skipped dependency alone decides nothing early: whether the step counts as failed hangs on the others.
    early = judge(parsed, success=False if need_failed else None, failed=None)
    return False if early is False else None


_VALUE = (Status, Name, Literal)


def _inner(rule: Rule, bare: tuple[type, ...]) -> str:
    text = render(rule)
    return text if isinstance(rule, bare) else f"({text})"


_BLANK = re.compile(r"\s*")
_TOKEN = re.compile(
    r"""(?P<open>\$\{\{|\() | (?P<close>\}\}|\)) | (?P<operator>==|!=)
      | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
      | (?P<number>[-+]?(?:\.[0-9]{1,40}|[0-9]{1,40}(?:\.[0-9]{0,40})?)(?:[eE][-+]?[0-9]{1,4})?(?![\w.]))
      | (?P<name>[A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z_][A-Za-z0-9_-]*)*)""",
    re.VERBOSE,
)
_END = "the end"
# What people write who know other languages → what to write here.
_FOREIGN = (
    ("&&", "write `and`"),
    ("||", "write `or`"),
    ("!", "write `not`"),
    ("=", "write `==`"),
    ("<", "a condition compares with `==` and `!=` only"),
    (">", "a condition compares with `==` and `!=` only"),
    ("'", "close the quote"),
    ('"', "close the quote"),
)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


class _Reader:
    """Reads from left to right, one token ahead."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.depth: int = 0
        self.token = _Token("", "", 0)
        self.next: int = 0
        self._advance()

    def whole(self) -> Rule:
        rule = self._or()
        if self.token.kind != "end":
            raise self._unexpected(
                self.token, "" if self.token.kind == "close" else "join conditions with `and` or `or`"
            )
        return rule

    def _or(self) -> Rule:
        parts = [self._and()]
        while self._word("or"):
            parts.append(self._and())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _and(self) -> Rule:
        parts = [self._not()]
        while self._word("and"):
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _not(self) -> Rule:
        at = self.token.at
        if not self._word("not"):
            return self._comparison()
        self._deeper(at)
        rule = Not(self._not())
        self.depth -= 1
        return rule

    def _comparison(self) -> Rule:
        left = self._value()
        operator = self.token
        if operator.kind != "operator":
            return left
        self._advance()
        rule = Compare(left, self._value(), operator.text == "==", operator.at)
        if (status := next((part for part in walk(rule) if isinstance(part, Status)), None)) is not None:
            hint = f"write `{status.name}()` or `not {status.name}()` alone"
            raise BadRule(f"`{status.name}()` cannot be compared: it is known only later", operator.at, hint)
        if self.token.kind == "operator":
            raise self._unexpected(self.token, "compare two values at a time, and join with `and`")
        return rule

    def _value(self) -> Rule:
        token = self.token
        self._advance()
        match token.kind:
            case "open":
                return self._bracketed(token)
            case "text":
                quote = token.text[0]
                return Literal(token.text[1:-1].replace(quote * 2, quote), True, token.at)
            case "number":
                return Literal(token.text, False, token.at)
            case "name" if token.text not in ("and", "or", "not"):
                return self._named(token)
            case _:
                raise self._unexpected(token, "" if token.text else "write for example `success() and mode == 'full'`")

    def _bracketed(self, opened: _Token) -> Rule:
        self._deeper(opened.at)
        rule = self._or()
        self.depth -= 1
        close = ")" if opened.text == "(" else "}}"
        if self.token.text != close or self.token.kind != "close":
            if self.token.kind == "end":
                raise BadRule(f"`{opened.text}` is not closed with `{close}`", opened.at, f"add `{close}`")
            raise self._unexpected(self.token, f"`{opened.text}` is closed with `{close}`")
        self._advance()
        return rule

    def _named(self, token: _Token) -> Rule:
        called = self.token.kind == "open" and self.token.text == "(" and self.token.at == token.at + len(token.text)
        if called:
            return self._status(token)
        if token.text in ("true", "false"):
            return Literal(token.text, False, token.at)
        if token.text in STATUSES:
            raise BadRule(f"`{token.text}` is a function", token.at, f"write `{token.text}()`")
        return Name(token.text, token.at)

    def _status(self, token: _Token) -> Rule:
        known = ", ".join(f"`{name}()`" for name in STATUSES)
        if token.text not in STATUSES:
            raise BadRule(f"there is no function `{_shown(token.text)}()`", token.at, f"known: {known}")
        self._advance()
        if self.token.text != ")":
            raise BadRule(f"`{token.text}()` takes nothing", self.token.at, f"write `{token.text}()`")
        self._advance()
        return Status(token.text)

    def _word(self, word: str) -> bool:
        if self.token.kind != "name" or self.token.text != word:
            return False
        self._advance()
        return True

    def _deeper(self, at: int) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise BadRule(f"nested deeper than {MAX_DEPTH} levels", at, "remove brackets that change nothing")

    def _advance(self) -> None:
        blank = _BLANK.match(self.text, self.next)
        start: int = blank.end() if blank is not None else self.next
        match = _TOKEN.match(self.text, start)
        if match is not None and match.lastgroup is not None:
            self.token = _Token(match.lastgroup, match[0], start)
            self.next = match.end()
        elif start == len(self.text):
            self.token, self.next = _Token("end", "", start), start
        else:
            hint = next((hint for begin, hint in _FOREIGN if self.text.startswith(begin, start)), "")
            raise BadRule(f"`{_shown(self.text[start:])}` cannot be read in a condition", start, hint)

    def _unexpected(self, token: _Token, hint: str) -> BadRule:
        what = f"`{_shown(token.text)}`" if token.text else _END
        return BadRule(f"{what} is not expected here", token.at, hint)


def _shown(text: str) -> str:
    return text if len(text) <= 20 else text[:20] + "…"
