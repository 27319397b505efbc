"""How bash reads a command up to some point, so that a reference to a variable can be put there that stays one word.

Within `"…"` a reference stands as it is, elsewhere it brings quotes of its own, and out of `'…'` it steps. Known to be
left out: a `case` pattern's lone `)` within `$( )`, which ends the substitution here.
"""

from __future__ import annotations

import re

_HEREDOC = re.compile(r"""<<(-?)[ \t]*(?:'([^'\n]*)'|"([^"\n]*)"|((?:\\.|[^\s;&|<>()'"\\])+))""")
_ANSI = re.compile(r"(?:[^'\\]|\\.)*", re.DOTALL)
_COMMENT_AFTER = frozenset(" \t\n;&|()`")
_SPECIAL = re.compile(r"""[\\'"`$()#<\n}]""")


def reference(before: str, variable: str) -> str | None:
    """What stands for `$variable` after the text `before` of a command; None where bash would not see it as one.

    That is within a here-document whose delimiter is quoted, and behind a backslash.
    """
    place = _Scanner(before).place()
    plain = f"${{{variable}}}"
    return {
        "bare": f'"{plain}"',
        "quoted": plain,
        "single": f"'\"{plain}\"'",
        "ansi": f"'\"{plain}\"$'",
        "none": None,
    }[place]


class _Scanner:
    """Walks through a command. `open` holds what is open: `"`, `(` for `$( )`, `` ` ``, `{` for `${ }`."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.open: list[str] = []
        self.heredocs: list[tuple[str, bool, bool]] = []
        """Here-documents that begin after this line: delimiter, whether tabs before it go, whether it is quoted."""

    def place(self) -> str:
        """What the end of the text is within: bare, quoted, single, ansi, none."""
        while (match := _SPECIAL.search(self.text, self.at)) is not None:
            self.at = match.end()
            if (ended := self._special(match[0], match.start())) is not None:
                return ended
        within = [sign for sign in self.open if sign != "{"]
        return "quoted" if within and within[-1] == '"' else "bare"

    def _special(self, sign: str, start: int) -> str | None:
        """Take one sign; returns where the text ends, if it ends within what the sign opens."""
        inside = self.open[-1] if self.open else ""
        if sign == "\\":
            self.at += 1
            return "none" if self.at > len(self.text) else None
        if sign in ('"', "`"):
            if inside == sign:
                self.open.pop()
            else:
                self.open.append(sign)
        elif sign == "$":
            return self._dollar(inside)
        elif sign == "}" and inside == "{":
            self.open.pop()
        elif inside not in ('"', "{"):
            return self._bare(sign, start, inside)
        return None

    def _bare(self, sign: str, start: int, inside: str) -> str | None:
        """Signs that mean something only outside of quotes."""
        if sign == "'":
            return self._skip("'", "single")
        if sign == "#" and (start == 0 or self.text[start - 1] in _COMMENT_AFTER):
            end = self.text.find("\n", start)
            self.at = len(self.text) if end < 0 else end
            return "quoted" if end < 0 else None
        if sign == "(":
            self.open.append("(")
        elif sign == ")" and inside == "(":
            self.open.pop()
        elif sign == "<" and (match := _HEREDOC.match(self.text, start)) and self.text[start - 1 : start] != "<":
            tabs, single, double, bare = match.groups()
            word = single if single is not None else double if double is not None else bare
            self.heredocs.append((word.replace("\\", ""), bool(tabs), bare is None or "\\" in bare))
            self.at = match.end()
        elif sign == "\n" and self.heredocs:
            return self._skip_heredocs()
        return None

    def _dollar(self, inside: str) -> str | None:
        following = self.text[self.at : self.at + 1]
        if following in ("(", "{"):
            self.open.append(following)
            self.at += 1
        elif following == "'" and inside != '"':
            self.at += 1
            return self._skip_ansi()
        return None

    def _skip(self, end: str, place: str) -> str | None:
        found = self.text.find(end, self.at)
        if found < 0:
            return place
        self.at = found + len(end)
        return None

    def _skip_ansi(self) -> str | None:
        """To the end of `$'…'`, in which a backslash escapes."""
        match = _ANSI.match(self.text, self.at)
        end = match.end() if match is not None else self.at
        if end >= len(self.text):
            return "ansi"
        if self.text[end] == "\\":
            return "none"
        self.at = end + 1
        return None

    def _skip_heredocs(self) -> str | None:
        while self.heredocs:
            delimiter, tabs, quoted = self.heredocs.pop(0)
            while True:
                end = self.text.find("\n", self.at)
                if end < 0:
                    return "none" if quoted else "quoted"
                line = self.text[self.at : end]
                self.at = end + 1
                if (line.lstrip("\t") if tabs else line) == delimiter:
                    break
        return None
