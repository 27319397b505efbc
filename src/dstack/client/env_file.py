"""Files of `NAME=value` lines, as `--env-file` reads them: the syntax that most tools agree on.

    # a comment
    export NAME=value            # `export` may stand there; a comment needs a blank before it
    QUOTED='as it is: $HOME \\n'   # single quotes: nothing is special, several lines are allowed
    DOUBLE="line\\nline"          # double quotes: \\n \\r \\t \\\\ \\" \\$, several lines are allowed
    NAME                         # the value that the shell has

Nothing is expanded: a `$` in a password stays what it is.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_BLANK = re.compile(r"[ \t]*")
_EXPORT = re.compile(r"export[ \t]+")
_EQUALS = re.compile(r"[ \t]*=[ \t]*")
_REST = re.compile(r"[ \t]*(?:(?<![^ \t\n])#[^\n]*)?(?:\n|\Z)")
"""Nothing, or a comment, up to the end of the line."""
_SINGLE = re.compile(r"'([^']*)'")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED: Mapping[str, str] = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "$": "$", "\n": ""}
_BARE_COMMENT = re.compile(r"[ \t]#")
MAX_BYTES = 4 << 20


class EnvFileError(Exception):
    """A file cannot be read as one; every line of the message begins `file:line:column:`. It shows no value.

    `hint` says what to do.
    """

    def __init__(
        self, message: str, hint: str = "lines are NAME=VALUE; quote a value that has blanks or # in it"
    ) -> None:
        super().__init__(message)
        self.hint = hint


def is_name(text: str) -> bool:
    """Whether `text` can name an environment variable."""
    return _NAME.fullmatch(text) is not None


def read(path: str) -> dict[str, str | None]:
    """The values by name, None for a name alone; of a name that stands twice the last. Raises EnvFileError."""
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise EnvFileError(f"{path}: {error.strerror or error}", _unreadable(error)) from None
    if len(raw) > MAX_BYTES:
        message = f"{path}: larger than {MAX_BYTES >> 20} MiB, so it is no list of variables"
        raise EnvFileError(message, "name a file of NAME=VALUE lines")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        raise EnvFileError(f"{path}:{line}:{column}: this is not UTF-8", "save it as UTF-8 text") from None
    return parse(text, path)


def _unreadable(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "correct the path: it starts at the folder that you are in"
    return "name a file of NAME=VALUE lines that you may read"


def parse(text: str, path: str) -> dict[str, str | None]:
    """The same for the text of a file; tells of every line that is wrong."""
    reader = _Reader(text.replace("\r\n", "\n").replace("\r", "\n"), path)
    while reader.at < len(reader.text):
        reader.line()
    if reader.wrong:
        raise EnvFileError("\n".join(reader.wrong))
    return reader.found


class _Reader:
    def __init__(self, text: str, path: str) -> None:
        self.text = text
        self.path = path
        self.at = 0
        self.found: dict[str, str | None] = {}
        self.wrong: list[str] = []

    def line(self) -> None:
        """Read one assignment, blank line or comment."""
        self._skip(_BLANK)
        if self._skip(_REST):
            return
        self._skip(_EXPORT)
        start = self.at
        name = _NAME.match(self.text, self.at)
        if name is None or not self._after_name(name.end()):
            self._complain(start, "a line is `NAME=value`, and a name has letters, digits and `_`, a letter first")
            return
        self.at = name.end()
        if not self._skip(_EQUALS):
            self._skip(_REST)
            self.found[name[0]] = None
            return
        value = self._value()
        if value is not None:
            if "\0" in value:
                self._complain(start, f"the value of `{name[0]}` holds a zero byte")
                return
            self.found[name[0]] = value

    def _after_name(self, at: int) -> bool:
        return bool(_EQUALS.match(self.text, at) or _REST.match(self.text, at))

    def _value(self) -> str | None:
        """The value at the reader's place, past which the reader goes; None after a complaint."""
        quote = self.text[self.at : self.at + 1]
        if quote not in ("'", '"') or not quote:
            return self._bare()
        start = self.at
        match = (_SINGLE if quote == "'" else _DOUBLE).match(self.text, self.at)
        if match is None:
            self._complain(start, f"the quote {quote} is not closed", to_end=True)
            return None
        self.at = match.end()
        if not self._skip(_REST):
            self._complain(self.at, "something stands behind the closing quote; a comment needs a blank before its #")
            return None
        return match[1] if quote == "'" else _ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[0]), match[1])

    def _bare(self) -> str:
        end = self.text.find("\n", self.at)
        end = len(self.text) if end < 0 else end
        line = self.text[self.at : end]
        self.at = end + 1
        if line.startswith("#"):
            return ""
        comment = _BARE_COMMENT.search(line)
        return (line[: comment.start()] if comment else line).strip()

    def _skip(self, what: re.Pattern[str]) -> bool:
        match = what.match(self.text, self.at)
        if match is None:
            return False
        self.at = match.end()
        return True

    def _complain(self, at: int, message: str, *, to_end: bool = False) -> None:
        """Note what is wrong at `at`, and go on with the next line; where a quote is open, there is none."""
        line = self.text.count("\n", 0, at) + 1
        column = at - self.text.rfind("\n", 0, at)
        self.wrong.append(f"{self.path}:{line}:{column}: {message}")
        end = -1 if to_end else self.text.find("\n", at)
        self.at = len(self.text) if end < 0 else end + 1
