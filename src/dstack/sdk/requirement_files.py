"""How requirements files are read: their encoding, their lines, and the files that they name. As uv does, which
installs them, and pip where uv does not differ."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

MOST_BYTES = 16 << 20
"""Of one file: locked requirements with their hashes, and no data."""
TOO_LARGE = "is larger than 16 MiB", "shorten it, or split it: a requirements file can name others with `-r`"
LEADS_AWAY = "is a link to what is not in the code that is sent", "put the file in its place, or correct the link"
_SAVE = "save it as a text file in UTF-8"

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_COMMENT = re.compile(r"(^|\s)#.*$", re.DOTALL)
_FILE_OPTION = re.compile(r"(?:-r|-c|--requirements?|--constraints?)(?:\s*=\s*|\s+|(?<=-[rc]))(\S.*)", re.DOTALL)


class NotText(Exception):
    """A file that is there cannot be read as text. Its words follow the file's name: `is not text in UTF-8`.

    `hint` says what to do.
    """

    def __init__(self, why: str, hint: str = _SAVE) -> None:
        super().__init__(why)
        self.hint = hint


def decode(data: bytes) -> str:
    """The text of a file in UTF-8, or in what a byte order mark says; raises NotText."""
    mark, encoding = next(((mark, name) for mark, name in _MARKS if data.startswith(mark)), (b"", "utf-8"))
    data = data.removeprefix(mark)
    if data[:2] == b"\0\0" or (not mark and b"\0" in data[:2]):
        raise NotText("is not text in UTF-8: it may be in UTF-32, or in UTF-16 without the mark that says so")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        number = data[: error.start].decode(encoding, errors="ignore").count("\n") + 1
        raise NotText(f"is not text in UTF-8: see line {number}") from None


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of the lines that say something: without comments, continued ones joined."""
    begun: list[str] = []
    first = 1
    for number, raw in enumerate(_LINE_BREAK.split(text), 1):
        line = _COMMENT.sub("", raw)
        if not begun:
            first = number
        if line == raw and line.endswith("\\"):
            begun.append(line[:-1])
            continue
        begun.append(line)
        if whole := "".join(begun).strip():
            yield first, whole
        begun.clear()
    if whole := "".join(begun).strip():
        yield first, whole


def named_file(line: str) -> str:
    """The file that a line such as `-r FILE` or `--constraint=FILE` names; empty for other lines."""
    option = _FILE_OPTION.fullmatch(line)
    if option is None:
        return ""
    name = option[1].strip()
    return name[1:-1] if len(name) > 2 and name[0] in "'\"" and name[-1] == name[0] else name
