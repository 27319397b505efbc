"""How bash reads a command up to some point, so that a reference to a variable can be put there that stays one word.

Within `"…"` a reference stands as it is, elsewhere it brings quotes of its own, and out of `'…'` it steps. Known to be
left out: a `case` pattern's lone `)` within `$( )`, which ends the substitution here, and a reference in the delimiter
of a here-document.
"""

from __future__ import annotations

import re
from collections import deque
from typing import NamedTuple

_HEREDOC = re.compile(r"""<<(-?)[ \t]*(?:'([^'\n]*)'|"([^"\n]*)"|((?:\\.|[^\s;&|<>()'"\\])+))""")
_ANSI = re.compile(r"(?:[^'\\]|\\.)*", re.DOTALL)
_COMMENT_AFTER = frozenset(" \t\n;&|()`")
_SPECIAL = re.compile(r"""[\\'"`$()#<\n}]""")


class _HereDocument(NamedTuple):
    delimiter: str
    tabs: bool
    """Whether tabs before a line do not count."""
    quoted: bool


class Command:
    """A command that is written from its beginning to its end: every sign is looked at once.

    A reference leaves what is open as it found it, and is not looked at.
    """

    def __init__(self) -> None:
        self._new: list[str] = []
        self._text = ""
        """What was written since the last reference."""
        self._at = 0
        self._within = "code"
        """What the end of the text is within, beside what is `_open`: code, single, ansi, comment, heredoc."""
        self._escaped = False
        self._before = ""
        """The sign before `_text`."""
        self._open: list[tuple[str, str]] = []
        """What is open: `"`, `(` for `$( )`, `` ` ``, `{` for `${ }`, and of all around it the innermost but `{`."""
        self._heredocs: deque[_HereDocument] = deque()
        """Here-documents that begin after this line, or have begun."""
        self._line_begun = False
        """Whether a reference stands in this line of a here-document, so that it does not end it."""

    def write(self, text: str) -> None:
        self._new.append(text)

    def reference(self, variable: str) -> str | None:
        """What stands for `$variable` here; None where bash would not see it as one.

        That is within a here-document whose delimiter is quoted, and behind a backslash.
        """
        self._read()
        plain = f"${{{variable}}}"
        return {
            "bare": f'"{plain}"',
            "quoted": plain,
            "single": f"'\"{plain}\"'",
            "ansi": f"'\"{plain}\"$'",
            "none": None,
        }[self._place()]

    def _place(self) -> str:
        """What the end of the text is within: bare, quoted, single, ansi, none."""
        if self._escaped:
            return "none"
        if self._within == "heredoc":
            return "none" if self._heredocs[0].quoted else "quoted"
        if self._within == "comment":
            return "quoted"
        if self._within != "code":
            return self._within
        return "quoted" if self._open and self._open[-1][1] == '"' else "bare"

    def _read(self) -> None:
        """Walk through what was written."""
        self._text, self._at = "".join(self._new), 0
        self._new.clear()
        self._escaped = False
        go_on = {
            "single": self._skip_single, "ansi": self._skip_ansi,
            "comment": self._skip_comment, "heredoc": self._skip_heredocs,
        }  # fmt: skip
        if self._within in go_on:
            go_on[self._within]()
        while self._within == "code" and (match := _SPECIAL.search(self._text, self._at)) is not None:
            self._at = match.end()
            self._special(match[0], match.start())
        self._before = '"'  # or another sign of the reference, none of which means anything to what follows it

    def _special(self, sign: str, start: int) -> None:
        inside = self._open[-1][0] if self._open else ""
        if sign == "\\":
            self._at += 1
            self._escaped = self._at > len(self._text)
        elif sign in ('"', "`"):
            if inside == sign:
                self._open.pop()
            else:
                self._begin(sign)
        elif sign == "$":
            self._dollar(inside)
        elif sign == "}" and inside == "{":
            self._open.pop()
        elif inside not in ('"', "{"):
            self._bare(sign, start, inside)

    def _begin(self, sign: str) -> None:
        around = self._open[-1][1] if self._open else ""
        self._open.append((sign, around if sign == "{" else sign))

    def _bare(self, sign: str, start: int, inside: str) -> None:
        """Signs that mean something only outside of quotes."""
        before = self._text[start - 1] if start else self._before
        if sign == "'":
            self._skip_single()
        elif sign == "#" and (not before or before in _COMMENT_AFTER):
            self._skip_comment()
        elif sign == "(":
            self._begin("(")
        elif sign == ")" and inside == "(":
            self._open.pop()
        elif sign == "<" and (match := _HEREDOC.match(self._text, start)) and before != "<":
            tabs, single, double, bare = match.groups()
            word = single if single is not None else double if double is not None else bare
            self._heredocs.append(_HereDocument(word.replace("\\", ""), bool(tabs), bare is None or "\\" in bare))
            self._at = match.end()
        elif sign == "\n" and self._heredocs:
            self._line_begun = False
            self._skip_heredocs()

    def _dollar(self, inside: str) -> None:
        following = self._text[self._at : self._at + 1]
        if following in ("(", "{"):
            self._begin(following)
            self._at += 1
        elif following == "'" and inside != '"':
            self._at += 1
            self._skip_ansi()

    def _skip_single(self) -> None:
        found = self._text.find("'", self._at)
        self._within = "single" if found < 0 else "code"
        self._at = found + 1

    def _skip_comment(self) -> None:
        found = self._text.find("\n", self._at)
        self._within = "comment" if found < 0 else "code"
        self._at = found

    def _skip_ansi(self) -> None:
        """To the end of `$'…'`, in which a backslash escapes."""
        match = _ANSI.match(self._text, self._at)
        end = match.end() if match is not None else self._at
        self._within = "code" if self._text[end : end + 1] == "'" else "ansi"
        self._escaped = self._text[end : end + 1] == "\\"
        self._at = end + 1

    def _skip_heredocs(self) -> None:
        self._within = "heredoc"
        while self._heredocs:
            expected = self._heredocs[0]
            end = self._text.find("\n", self._at)
            if end < 0:
                self._line_begun = True
                return
            line = self._text[self._at : end]
            self._at = end + 1
            if not self._line_begun and (line.lstrip("\t") if expected.tabs else line) == expected.delimiter:
                self._heredocs.popleft()
            self._line_begun = False
        self._within = "code"
