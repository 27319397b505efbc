"""Text without quotes that goes on over several lines, where a list was meant: YAML makes one text of it.

`commands:` with `echo one` and `echo two` below is the one command `echo one echo two`, and ` - data` below `- out` is
no second item but `out - data`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from dstack.workflows.diagnostics import Report, Source
from dstack.workflows.nodes import ListNode, MapNode, Node, ScalarNode
from dstack.workflows.syntax.trouble import shorten

_COMMANDS = ("commands", "before_run", "setup")
_NAMES = ("artifacts", "requirements", "depends-on", "deps", "environment", "env")
"""Keys whose values stand in one line each: a text of several lines is a mistake."""
_GOES_ON = ("--", "&&", "||", "|")
"""How a line begins that is meant to go on with the command above it."""
_ENDS_OPEN = ("\\", "&&", "||", "|", ",")


def check(source: Source, workflow: MapNode, report: Report) -> None:
    """Tell of the texts of one workflow that were meant as lists: an error where they can mean nothing else."""
    for key in (*_COMMANDS, *_NAMES):
        node = workflow.entries.get(key)
        if node is None:
            continue
        for text, item in _texts(node):
            # Lines are joined with a blank: without one there is nothing to look at.
            # A dash without its blank is told of already (`composing`).
            if (
                text.plain
                and text.text[:1] != "-"
                and " " in text.text
                and len(lines := _lines(source, text)) > len(text.text.splitlines())
            ):
                _tell(source, key, text, lines, item=item, report=report)


def _texts(node: Node) -> Iterator[tuple[ScalarNode, bool]]:
    """The texts of a key, and whether each is an item of a list."""
    if isinstance(node, ScalarNode):
        yield node, False
    elif isinstance(node, ListNode):
        for item in node.items:
            if isinstance(item, ScalarNode):
                yield item, True


class _Line(NamedTuple):
    number: int
    column: int
    text: str


def _lines(source: Source, text: ScalarNode) -> list[_Line]:
    """The lines of a text that stands in several, without blank ones; else none."""
    first, last = text.line, source.position(max(text.end - 1, text.start))[0]
    if first == last:
        return []
    found = [_Line(first, text.column, source.line(first)[text.column - 1 :].rstrip())]
    for number in range(first + 1, last + 1):
        line = source.line(number).rstrip()
        if line:
            found.append(_Line(number, len(line) - len(line.lstrip()) + 1, line.lstrip()))
    return found


def _tell(source: Source, key: str, text: ScalarNode, lines: list[_Line], *, item: bool, report: Report) -> None:
    shown = f"`{shorten(' '.join(text.text.split()), 60)}`"
    dashed = next((line for line in lines[1:] if line.text.startswith("- ")), None)
    if dashed is not None:
        message = f"`{dashed.text[:40]}` is no item of its own: with the line above it is the one text {shown}"
        # A program may take a `-` for its standard input.
        tell = report.error if key in _NAMES else report.warning
        tell(source, (dashed.number, dashed.column), message, "align its `-` with the one of the item above")
    elif key in _NAMES:
        report.error(source, text.at, f"these {len(lines)} lines of `{key}` are one text: {shown}", _START)
    elif not item and not _meant(lines):
        message = f"these {len(lines)} lines of `{key}` are one command: {shown}"
        report.warning(source, text.at, message, f"{_START}, or begin the text with `{key}: |`")


_START = "for a list, begin each line with `- `"


def _meant(lines: list[_Line]) -> bool:
    """Whether each line shows that it goes on with the one above: it is indented deeper than the first, or says so."""
    return all(
        line.column > lines[0].column or line.text.startswith(_GOES_ON) or above.text.endswith(_ENDS_OPEN)
        for above, line in itertools.pairwise(lines)
    )
