"""The place where the YAML parser stopped, the text around it, and how findings about it are worded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import yaml

from dstack.workflows.diagnostics import Source

UNCLOSED = "is a quote or bracket left open?"
KEY = re.compile(r"""\s*(?:- +)*(?P<key>"[^"]*"|'[^']*'|[^\s:#"'\[\]{},][^:#]*?)\s*:(?= |$)""")
COMMENT = re.compile(r"\s+#.*")

ODD_SPACES = {
    "\u00a0": "a non-breaking space", "\u2007": "a figure space", "\u202f": "a narrow space",
    "\u3000": "an ideographic space", "\u200b": "a zero-width space", "\ufeff": "a zero-width space",
}  # fmt: skip
_DASHES = re.compile(r"\s*(?:- +)*")
REACH = 300
"""Characters before and after the place that are looked at; a line may be endless."""
_LINES = 200
"""Lines above the place that are looked at."""
_BREAKS = "\n\r\x85\u2028\u2029"


@dataclass(frozen=True, slots=True)
class Finding:
    """Where the mistake is (line and column from 1), what it is, and what to write."""

    at: tuple[int, int]
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Read:
    """What was read before the parser stopped, as indices: the last quoted text, its end being past the closing quote,
    and the innermost `[` or `{` that is open."""

    quoted: tuple[int, int] | None = None
    bracket: int | None = None


class Trouble:
    """The place where the parser stopped, and the text around it."""

    def __init__(self, source: Source, error: yaml.MarkedYAMLError, read: Read) -> None:
        self.source = source
        self.text = source.text
        self.quoted = read.quoted
        self.problem = error.problem or ""
        self.context = error.context or ""
        end = len(self.text.rstrip())
        mark = error.problem_mark or error.context_mark
        index = mark.index if mark is not None else end
        self.at_end = index >= end
        self.index = min(index, max(end - 1, 0)) if self.at_end else index
        self.at = source.position(self.index)
        opened = error.context_mark.index if error.context_mark is not None else None
        self.opened = opened if opened is not None and opened < end else None
        """Where what was being read begins."""
        self.bracket = self.opened if self.opened is not None and self.text[self.opened] in "[{" else read.bracket
        """The innermost `[` or `{` that is open."""

    @cached_property
    def before(self) -> str:
        """The line up to the place."""
        return self.text[max(self.index - self.at[1] + 1, self.index - REACH) : self.index]

    @cached_property
    def after(self) -> str:
        """The line from the place on."""
        return line_at(self.text, self.index)

    @cached_property
    def rest(self) -> str:
        """The same without a comment."""
        return COMMENT.sub("", self.after).rstrip()

    @property
    def starts_line(self) -> bool:
        return not self.before.strip()

    def indent(self, number: int) -> int:
        """Blanks before what stands in a line."""
        line = self.line(number)
        return len(line) - len(line.lstrip())

    def content(self, number: int) -> int:
        """The same, with the dashes of list items."""
        match = _DASHES.match(self.line(number))
        return match.end() if match is not None else 0

    def line(self, number: int) -> str:
        return self.source.line(number)

    def above(self, number: int | None = None) -> Iterator[tuple[int, str]]:
        """Lines above line `number` (default: the place's), upwards, without empty lines and comments."""
        last = (number or self.at[0]) - 1
        for above in range(last, max(last - _LINES, 0), -1):
            line = self.line(above)
            if line.strip() and not line.lstrip().startswith("#"):
                yield above, line

    def since(self, number: int) -> Iterator[int]:
        """Lines with something in them, from the one after line `number` to the place's."""
        for later in range(max(number + 1, self.at[0] - _LINES), self.at[0] + 1):
            if self.line(later).strip():
                yield later

    def opening(self) -> tuple[int, int]:
        return self.at if self.opened is None else self.source.position(self.opened)


def line_at(text: str, index: int) -> str:
    piece = text[index : index + REACH]
    ends = [found for mark in _BREAKS if (found := piece.find(mark)) >= 0]
    return piece[: min(ends)] if ends else piece


def quote(value: str) -> str:
    """`value` as YAML writes it in quotes."""
    if '"' in value or "\\" in value:
        return "'" + value.replace("'", "''") + "'"
    return f'"{value}"'


def shorten(text: str, most: int = 40) -> str:
    return text if len(text) <= most else text[:most] + "…"


def in_quotes(value: str) -> str:
    value = value.strip()
    return f"put it in quotes: `{quote(value)}`" if 0 < len(value) <= 60 else "put it in quotes"
