"""What people read when a file or a command line is wrong: positioned messages, all of them at once.

Exception
├── Invalid       a file or command line is wrong; holds every diagnostic
└── UnknownTag    raised by the callers of `plan` when a tag does not exist; becomes a diagnostic
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Collection, Sequence
from typing import Literal

import msgspec

MAX_DIAGNOSTICS = 500
"""More than this helps nobody; the rest is counted in one last diagnostic."""

_MAX_SOURCE = 200
# The line breaks of YAML 1.1, which PyYAML counts.
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


class Diagnostic(msgspec.Struct, frozen=True):
    """One finding. Lines and columns count from 1; all three are null where it is about the command line."""

    severity: Literal["error", "warning"]
    file: str | None
    line: int | None
    column: int | None
    message: str
    source: str = ""
    """The line of the file, or the argument of the command line."""
    hint: str = ""


class Invalid(Exception):
    """Something that a person wrote is wrong; `diagnostics` holds all findings, errors and warnings."""

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        super().__init__("\n".join(render(diagnostic) for diagnostic in diagnostics))
        self.diagnostics = list(diagnostics)


class UnknownTag(Exception):
    """No such tag, or no successful run; `known` are the names that would have been found."""

    def __init__(self, known: Sequence[str] = ()) -> None:
        super().__init__(f"unknown tag; known: {', '.join(known) or 'none'}")
        self.known = list(known)


class Source:
    """The text of one file."""

    __slots__ = ("_lines", "file", "text")

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.text = text
        self._lines: list[str] | None = None

    def line(self, number: int) -> str:
        """Line `number`, counted from 1; empty past the end, cut where it is very long."""
        if self._lines is None:
            self._lines = _LINE_BREAK.split(self.text)
        line = self._lines[number - 1] if 0 < number <= len(self._lines) else ""
        line = line if len(line) <= _MAX_SOURCE else line[:_MAX_SOURCE] + "…"
        # A file that is not Unicode text has such lines, and JSON does not take them.
        return line.encode(errors="replace").decode()

    def position(self, index: int) -> tuple[int, int]:
        """Line and column, from 1, of the character at `index`."""
        before = self.text[:index]
        last = 0
        line = 1
        for match in _LINE_BREAK.finditer(before):
            line += 1
            last = match.end()
        return line, index - last + 1


class Report:
    """Collects diagnostics, so that all of them come in one go."""

    def __init__(self) -> None:
        self.errors = 0
        self._diagnostics: list[Diagnostic] = []
        self._left_out = 0
        # Similarity costs time per pair: a file of nothing but mistakes must not take minutes.
        self._comparisons = 40_000

    def error(self, source: Source, at: tuple[int, int], message: str, hint: str = "") -> None:
        self.errors += 1
        self._add(Diagnostic("error", source.file, *at, message, source.line(at[0]), hint))

    def warning(self, source: Source, at: tuple[int, int], message: str, hint: str = "") -> None:
        self._add(Diagnostic("warning", source.file, *at, message, source.line(at[0]), hint))

    def argument(
        self, argument: str, message: str, hint: str = "", severity: Literal["error", "warning"] = "error"
    ) -> None:
        """A finding about the command line (`argument` as typed)."""
        self.errors += severity == "error"
        self._add(Diagnostic(severity, None, None, None, message, argument[:_MAX_SOURCE], hint))

    def nearest(self, word: str, known: Collection[str]) -> str:
        """The most similar of `known`; empty where none is similar."""
        self._comparisons -= len(known)
        if self._comparisons < 0:
            return ""
        return next(iter(difflib.get_close_matches(word[:100], known, n=1, cutoff=0.6)), "")

    def near(self, word: str, known: Collection[str]) -> str:
        """A hint with the most similar of `known`, or nothing."""
        found = self.nearest(word, known)
        return f"did you mean `{found}`?" if found else ""

    def diagnostics(self) -> list[Diagnostic]:
        """Everything found, by file and position; arguments first."""
        found = sorted(self._diagnostics, key=lambda d: (d.file or "", d.line or 0, d.column or 0))
        if self._left_out:
            found.append(Diagnostic("error", None, None, None, f"and {self._left_out} more like these"))
        return found

    def check(self) -> None:
        """Raise Invalid if there was any error."""
        if self.errors:
            raise Invalid(self.diagnostics())

    def _add(self, diagnostic: Diagnostic) -> None:
        if len(self._diagnostics) < MAX_DIAGNOSTICS:
            self._diagnostics.append(diagnostic)
        else:
            self._left_out += 1


def render(diagnostic: Diagnostic) -> str:
    """The diagnostic for a terminal: `file:line:col: message`, the source line, a caret, the hint."""
    where = "command line" if diagnostic.file is None else diagnostic.file
    if diagnostic.line is not None:
        where += f":{diagnostic.line}:{diagnostic.column}"
    kind = "" if diagnostic.severity == "error" else f"{diagnostic.severity}: "
    lines = [f"{printable(where)}: {kind}{printable(diagnostic.message)}"]
    if diagnostic.source:
        lines.append("    " + printable(diagnostic.source))
        if diagnostic.column is not None and diagnostic.column <= _MAX_SOURCE:
            lines.append("    " + _under(diagnostic.source[: diagnostic.column - 1]) + "^")
    if diagnostic.hint:
        lines.append(f"  hint: {printable(diagnostic.hint)}")
    return "\n".join(lines)


def printable(text: str) -> str:
    """`text` with nothing that a terminal would obey; tabs stay."""
    return "".join(c if c == "\t" or unicodedata.category(c)[0] != "C" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _under(text: str) -> str:
    """Blanks as wide as `text`."""
    blanks: list[str] = []
    for char in text:
        if char == "\t":
            blanks.append("\t")
        elif not unicodedata.combining(char):
            blanks.append("  " if unicodedata.east_asian_width(char) in "WF" else " ")
    return "".join(blanks)
