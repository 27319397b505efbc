"""What people read when a file or a command line is wrong: positioned messages, all of them at once.

Exception
├── Invalid       a file or command line is wrong; holds every diagnostic
└── UnknownTag    raised by the callers of `plan` when a tag does not exist; becomes a diagnostic
"""

from __future__ import annotations

import bisect
import difflib
import itertools
import re
import unicodedata
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from dstack.workflows.aliases import Uses

MAX_DIAGNOSTICS = 500
"""More than this helps nobody; the rest is counted in one last diagnostic."""

_MAX_SOURCE = 200
_MAX_WORD = 40
_MANY = 500
"""Names that are compared with a word one by one; of more, those that begin like it."""
_OPENING = re.compile(r"\$\{\{")
# The line breaks of YAML 1.1, which PyYAML counts.
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


Severity = Literal["error", "warning"]


class Diagnostic(msgspec.Struct, frozen=True):
    """One finding. Lines and columns count from 1; all three are null where it is about the command line."""

    severity: Severity
    file: str | None
    line: int | None
    column: int | None
    message: str
    source: str = ""
    """The line of the file, or the argument of the command line."""
    hint: str = ""


def warning(message: str, hint: str = "") -> Diagnostic:
    """One that is about no place in a file."""
    return Diagnostic("warning", None, None, None, message, "", hint)


class Invalid(Exception):
    """Something that a person wrote is wrong; `diagnostics` holds all findings, errors and warnings."""

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        super().__init__("\n".join(render(diagnostic) for diagnostic in diagnostics))
        self.diagnostics = list(diagnostics)


class UnknownTag(Exception):
    """No such tag, or no successful run; `known` are the names that would have been found, and `why` says what else
    is missing, such as another repository."""

    def __init__(self, known: Sequence[str] = (), why: str = "") -> None:
        super().__init__(f"unknown tag; known: {', '.join(known) or 'none'}")
        self.known = list(known)
        self.why = why


class Source:
    """The text of one file."""

    __slots__ = ("_openings", "_starts", "file", "text")

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        # The parser counts no byte order mark, and no editor shows one.
        self.text = text.removeprefix("\ufeff")
        self._starts: list[int] = []
        """Where lines begin; made when the first position is asked for."""
        self._openings: list[int] | None = None

    def line(self, number: int) -> str:
        """Line `number`, counted from 1; empty past the end, cut where it is very long."""
        if number == 1:
            start = 0  # the lines of what is far too large are not looked for
        else:
            starts = self._line_starts()
            if not 0 < number <= len(starts):
                return ""
            start = starts[number - 1]
        line = _LINE_BREAK.split(self.text[start : start + _MAX_SOURCE + 1], maxsplit=1)[0]
        line = line if len(line) <= _MAX_SOURCE else line[:_MAX_SOURCE] + "…"
        # A file that is not Unicode text has such lines, and JSON does not take them.
        return line.encode(errors="replace").decode()

    def position(self, index: int) -> tuple[int, int]:
        """Line and column, from 1, of the character at `index`."""
        starts = self._line_starts()
        line = bisect.bisect_right(starts, index)
        return line, index - starts[line - 1] + 1

    def opening(self, ordinal: int, start: int, end: int) -> int | None:
        """The index of the `ordinal`-th `${{`, counted from 0, between two indices."""
        if self._openings is None:
            self._openings = [match.start() for match in _OPENING.finditer(self.text)]
        number = bisect.bisect_left(self._openings, start) + ordinal
        found = self._openings[number] if number < len(self._openings) else end
        return found if found + len("${{") <= end else None

    def index(self, at: tuple[int, int]) -> int:
        """The character at a line and column: the opposite of `position`."""
        starts = self._line_starts()
        return starts[min(at[0], len(starts)) - 1] + at[1] - 1

    def _line_starts(self) -> list[int]:
        if not self._starts:
            self._starts = [0, *(match.end() for match in _LINE_BREAK.finditer(self.text))]
        return self._starts


class Report:
    """Collects diagnostics, so that all of them come in one go."""

    def __init__(self) -> None:
        self.errors = 0
        self._kept: dict[Severity, list[Diagnostic]] = {"error": [], "warning": []}
        self._left_out: dict[Severity, int] = {"error": 0, "warning": 0}
        # Similarity costs time per pair: a file of nothing but mistakes must not take minutes.
        self._comparisons = 5_000
        self._told: set[tuple[str, tuple[int, int], str]] = set()
        self._uses: Uses | None = None
        self._given_up = False

    @property
    def full(self) -> bool:
        """Whether further errors are only counted: what costs time for each may then be left out."""
        return len(self._kept["error"]) >= MAX_DIAGNOSTICS

    @contextmanager
    def about(self, uses: Uses) -> Generator[None]:
        """While one workflow is checked: what is wrong within what an alias brought into it is told once, where it is
        defined; where it cannot be what it is, where it is used. Either says where the other is."""
        before, self._uses = self._uses, uses
        try:
            yield
        finally:
            self._uses = before

    def leave_out_the_rest(self) -> None:
        """Say that looking at the rest would take long and help nobody."""
        self._given_up = True

    @property
    def hopeless(self) -> bool:
        """Whether what has not been looked at is left out."""
        return self._given_up or self.errors >= 2 * MAX_DIAGNOSTICS

    def error(self, source: Source, at: tuple[int, int], message: str, hint: str = "") -> None:
        self.errors += 1
        self._place("error", source, at, message, hint)

    def warning(self, source: Source, at: tuple[int, int], message: str, hint: str = "") -> None:
        self._place("warning", source, at, message, hint)

    def _place(self, severity: Severity, source: Source, at: tuple[int, int], message: str, hint: str) -> None:
        if len(self._kept[severity]) >= MAX_DIAGNOSTICS:
            self._left_out[severity] += 1
            return
        key = (source.file, at, message)
        if key in self._told:
            return
        self._told.add(key)
        if self._uses is not None and (brought := self._uses.of(index := source.index(at))) is not None:
            _, _, use, whole = brought
            if whole == index:
                message = f"{message} (`&{use.name}` is in line {at[0]})"
                at = use.line, use.column
            else:
                message = f"{message} (used as `*{use.name}` in line {use.line})"
        self._kept[severity].append(Diagnostic(severity, source.file, *at, message, source.line(at[0]), hint))

    def argument(self, argument: str, message: str, hint: str = "", severity: Severity = "error") -> None:
        """A finding about the command line (`argument` as typed)."""
        self.errors += severity == "error"
        kept = self._kept[severity]
        if len(kept) < MAX_DIAGNOSTICS:
            kept.append(Diagnostic(severity, None, None, None, message, argument[:_MAX_SOURCE], hint))
        else:
            self._left_out[severity] += 1

    def nearest(self, word: str, known: Collection[str], cutoff: float = 0.6) -> str:
        """The most similar of `known`; empty where none is similar. `cutoff`: from 0, anything, to 1, the same."""
        if self.full:
            return ""
        word = word[:_MAX_WORD]
        self._comparisons -= min(len(known), _MANY) + len(known) // 20
        if self._comparisons < 0:
            return ""
        if len(known) > _MANY:
            alike = (name for name in known if abs(len(name) - len(word)) <= 2 and name[:2] == word[:2])
            known = list(itertools.islice(alike, _MANY))
        return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=cutoff)), "")

    def near(self, word: str, known: Collection[str]) -> str:
        """A hint with the most similar of `known`, or nothing."""
        found = self.nearest(word, known)
        return f"did you mean `{found}`?" if found else ""

    def diagnostics(self) -> list[Diagnostic]:
        """Everything found, by file and position; arguments first."""
        kept = [*self._kept["error"], *self._kept["warning"]]
        found = sorted(kept, key=lambda d: (d.file or "", d.line or 0, d.column or 0))
        for severity, count in self._left_out.items():
            if count:
                found.append(Diagnostic(severity, None, None, None, f"and {count} more {severity}s"))
        if self.hopeless:
            found.append(Diagnostic("error", None, None, None, "the rest of the files was not checked"))
        return found

    def check(self) -> None:
        """Raise Invalid if there was any error."""
        if self.errors:
            raise Invalid(self.diagnostics())


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
