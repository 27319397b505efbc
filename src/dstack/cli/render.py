"""What people see: tables, times, sizes, diagnostics. Colours only where they are seen."""

from __future__ import annotations

import json
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    from dstack.client.types import Diagnostic, Frame, Job, Run

_CODES = {"red": "31", "green": "32", "yellow": "33", "grey": "90", "bold": "1"}
STATUS_COLOURS = {
    "submitted": "yellow",
    "planning": "yellow",
    "waiting": "yellow",
    "queued": "yellow",
    "assigned": "yellow",
    "starting": "yellow",
    "stopping": "yellow",
    "running": "green",
    "saving": "green",
    "failed": "red",
    "done": "grey",
    "stopped": "grey",
    "skipped": "grey",
}
_NAMES = ("RUN", "SNAPSHOT")
"""Columns of names, beside the first one."""
_FINISHED = ("done", "failed", "stopped", "skipped")


def is_coloured(stream: TextIO) -> bool:
    """Whether `stream` is a terminal that wants colours (https://no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    try:
        return stream.isatty()
    except ValueError:
        return False  # closed


def paint(text: str, colour: str | None, stream: TextIO) -> str:
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if colour and is_coloured(stream) else text


def say(text: str) -> None:
    """One line for the person, on stderr: stdout carries data or a job's output."""
    sys.stderr.write(harmless(text) + "\n")
    sys.stderr.flush()


def write_json(value: object, *, indent: int | None = 2) -> None:
    """`value` on stdout; what that cannot show, bytes of a file's name for example, as an escape of JSON."""
    separators = None if indent else (",", ":")
    text = json.dumps(value, indent=indent, ensure_ascii=False, separators=separators)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=indent, separators=separators)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def write_table(columns: Sequence[str], rows: Sequence[Sequence[str]], colours: Sequence[str | None] = ()) -> None:
    """A table on stdout; `colours` is one per row, for its status.

    In a terminal rich fits it to the width, and breaks no name that is copied into the next command; elsewhere lines
    are never wrapped or cut, so that they can be searched.
    """
    if not is_coloured(sys.stdout):
        sys.stdout.write(plain_table(columns, rows))
        sys.stdout.flush()
        return
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    room = 0
    for at, column in enumerate(columns):
        is_name = at == 0 or column in _NAMES
        width = max([len(column), *(cell_len(printable(row[at])) for row in rows if is_name)])
        table.add_column(column, overflow="fold", no_wrap=is_name, min_width=width)
        room += width + 2
    names = {"grey": "bright_black"}
    for index, row in enumerate(rows):
        colour = colours[index] if index < len(colours) else None
        style = names.get(colour, colour) if colour else ""
        styles = [style if column == "STATUS" else "" for column in columns]
        table.add_row(*(Text(printable(cell), style=own) for cell, own in zip(row, styles, strict=True)))
    Console(width=max(Console().width, room)).print(table)


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(line[at]) for line in (columns, *rows)) for at in range(len(columns))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in (columns, *rows)
    )
    return "".join(line.rstrip() + "\n" for line in lines)


def show_table(run: Run, tags: Sequence[str] = ()) -> None:
    """The run as it was accepted, on stderr: stdout is the job's. `tags` are those that it is to get."""
    named = ", ".join(run.get("tags") or tags)
    row = [run.get("name", ""), run.get("workflow", ""), run.get("status_text", ""), named]
    sys.stderr.write(plain_table(["RUN", "WORKFLOW", "STATUS", "TAG"], [row]))
    sys.stderr.flush()


def save_warnings(run: Run) -> list[str]:
    """What of the artifacts of its jobs could not be saved as it was, in words."""
    jobs = run.get("jobs", [])
    return [
        f"{job.get('name')}: {text}" if len(jobs) > 1 else text for job in jobs for text in job.get("save_warnings", [])
    ]


def diagnostics_text(diagnostics: Sequence[Diagnostic]) -> str:
    """`file:line:col: message`, the source line, a caret and a hint, for each."""
    return "".join(_diagnostic(diagnostic) for diagnostic in diagnostics)


def _diagnostic(diagnostic: Diagnostic) -> str:
    file, line, column = diagnostic.get("file"), diagnostic.get("line"), diagnostic.get("column")
    is_warning = diagnostic.get("severity") == "warning"
    word = paint("warning:" if is_warning else "error:", "yellow" if is_warning else "red", sys.stderr)
    where = ":".join(printable(str(part)) for part in (file, line, column) if part is not None) if file else ""
    # Editors and people find the place by its form; the word is needed only where there is none, or for a warning.
    head = f"{where}: {word + ' ' if is_warning else ''}" if where else f"{word} "
    message = diagnostic.get("message", "")
    text = f"{head}{printable(message)}\n"
    source = diagnostic.get("source")
    # Of the command line there is no line to show, only the word, which the message mostly holds.
    if source and not (file is None and source in message):
        source = source.rstrip("\r\n")
        text += f"    {printable(source)}\n"
        if column and column <= len(source) + 1:
            text += f"    {_under(source[: column - 1])}{paint('^', 'red', sys.stderr)}\n"
    hint = diagnostic.get("hint")
    return text + f"  hint: {printable(hint)}\n" if hint else text


def printable(text: str) -> str:
    """`text` with nothing that a terminal would obey; tabs stay."""
    if text.isprintable():
        return text
    return "".join(char if char == "\t" or char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def harmless(text: str) -> str:
    """The same of a text for stderr, with our own colours and ends of lines in it, which stay."""
    if text.isprintable():
        return text
    import re

    parts = re.split(r"(\x1b\[\d*m|\n)" if is_coloured(sys.stderr) else "(\n)", text)
    return "".join(part if at % 2 else printable(part) for at, part in enumerate(parts))


def _under(text: str) -> str:
    """Blanks as wide as `text`, so that a caret stands below what it points at; tabs stay tabs."""
    if text.isascii():
        return "".join("\t" if char == "\t" else " " for char in text)
    import unicodedata

    width = {"W": "  ", "F": "  "}
    return "".join(
        "\t" if char == "\t" else width.get(unicodedata.east_asian_width(char), " ")
        for char in text
        if not unicodedata.combining(char)
    )


def status_words(item: Run | Job | Frame) -> str:
    """The status as the server words it: `Running...`, `Done`, `Stopping...`."""
    return item.get("status_text") or item.get("status", "").capitalize()


def status_colour(item: Run | Job | Frame) -> str | None:
    status = item.get("status", "")
    waits = item.get("stopping") or item.get("why_waiting")
    return "yellow" if waits and status not in _FINISHED else STATUS_COLOURS.get(status)


def is_finished(item: Run | Job | Frame) -> bool:
    return item.get("status") in _FINISHED


def ago(at: int | None, now: float | None = None) -> str:
    """`at` (microseconds UTC) as seen from `now` (seconds): `12 seconds ago`, `an hour ago`, `2022-07-01`."""
    if at is None:
        return ""
    seconds = max(0.0, (time.time() if now is None else now) - at / 1e6)
    if seconds < 2:
        return "now"
    for size, limit, one, many in (
        (1, 60, "", "seconds"),
        (60, 3600, "a minute", "minutes"),
        (3600, 86400, "an hour", "hours"),
        (86400, 7 * 86400, "a day", "days"),
    ):
        if seconds < limit:
            count = int(seconds // size)
            return f"{one if count == 1 else f'{count} {many}'} ago"
    return time.strftime("%Y-%m-%d", time.localtime(at / 1e6))


def duration(start: int | None, end: int | None) -> str:
    """The time between two points (microseconds UTC): `0.04 s`, `2.5 s`, `12 s`, `3 min 5 s`, `2 h 10 min`."""
    if start is None or end is None:
        return ""
    seconds = max(0.0, (end - start) / 1e6)
    if seconds < 10:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size_words(size: int) -> str:
    """Bytes in binary units: `900B`, `1.5MiB`, `16GiB`."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f}{unit}" if unit == "B" or value == int(value) else f"{value:.1f}{unit}"
        value /= 1024
    return f"{value:.1f}TiB"


def count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
