"""YAML text → a tree of nodes that know where they stand.

The tree is composed here from the events of PyYAML's C parser rather than by its own composer: that one recurses (deep
nesting ends the process), resolves YAML 1.1 types in Python for each scalar (twice the time), lets duplicate keys pass
and has no limits. Everything here is linear in the text and bounded by the limits below.
"""

from __future__ import annotations

import itertools
import re
from typing import Any, NoReturn, cast

import yaml

from dstack.sdk.scalars import Scalar, parse_scalar
from dstack.workflows import expressions
from dstack.workflows.diagnostics import Report, Source

MAX_SIZE = 2 * 2**20
"""Characters of one file."""
MAX_DEPTH = 40
MAX_NODES = 200_000
MAX_EXPRESSIONS = 50_000
MAX_EXPANDED = 400_000
"""Nodes when every alias is written out, long texts counting once more per 64 characters."""

_OPENING = re.compile(r"\$\{\{")
_UNCLOSED = "is a quote or bracket left open?"
_CORE_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map"))


class Node:
    """A value in a file: where it starts (from 1), and its plain data unless it is `dynamic` (holds expressions)."""

    __slots__ = ("column", "data", "dynamic", "line", "size")

    def __init__(self, line: int, column: int) -> None:
        self.line = line
        self.column = column
        self.size = 1
        self.dynamic = False
        self.data: Any = None

    @property
    def at(self) -> tuple[int, int]:
        return self.line, self.column


class ScalarNode(Node):
    """A single value. `start` and `end` are indices of the file's text."""

    __slots__ = ("end", "plain", "start", "template", "text")

    def __init__(self, line: int, column: int, text: str, start: int, end: int, *, plain: bool) -> None:
        self.line = line
        self.column = column
        self.text = text
        self.start = start
        self.end = end
        self.plain = plain
        self.size = 1 + (len(text) >> 6)
        self.dynamic = False
        self.template: expressions.Template | None = None
        self.data: Scalar = parse_scalar(text) if plain else text


class ListNode(Node):
    __slots__ = ("items",)

    def __init__(self, line: int, column: int) -> None:
        super().__init__(line, column)
        self.items: list[Node] = []


class MapNode(Node):
    """A mapping: values and key nodes by the text of the key."""

    __slots__ = ("entries", "keys")

    def __init__(self, line: int, column: int) -> None:
        super().__init__(line, column)
        self.entries: dict[str, Node] = {}
        self.keys: dict[str, ScalarNode] = {}


def compose(source: Source, report: Report) -> Node | None:
    """The one document of a file; None where it is empty or cannot be read, which is then reported."""
    if len(source.text) > MAX_SIZE:
        report.error(source, (1, 1), f"the file is larger than {MAX_SIZE // 2**20} MiB", "split it or shorten it")
        return None
    if source.text.count("${{") > MAX_EXPRESSIONS:
        report.error(source, (1, 1), f"the file has more than {MAX_EXPRESSIONS:,} expressions", "split it")
        return None
    try:
        return _Composer(source, report).document()
    except _Refused as refused:
        report.error(source, refused.at, refused.message, refused.hint)
    except yaml.MarkedYAMLError as error:
        _report_syntax(source, error, report)
    except yaml.reader.ReaderError as error:
        index = len(source.text.encode()[: error.position].decode(errors="ignore"))
        report.error(source, source.position(index), f"not a text file: {error.reason}", "save it as UTF-8 text")
    except UnicodeEncodeError as error:
        report.error(source, source.position(error.start), "not valid Unicode text", "save the file as UTF-8 text")
    return None


def expression_position(source: Source, node: ScalarNode, ordinal: int) -> tuple[int, int]:
    """Where the `ordinal`-th `${{` of a scalar stands; the scalar's own place where escapes hide it."""
    openings = _OPENING.finditer(source.text, node.start, node.end)
    opening = next(itertools.islice(openings, ordinal, None), None)
    return node.at if opening is None else source.position(opening.start())


class _Refused(Exception):
    """The document breaks a limit; nothing more of it is read."""

    def __init__(self, at: tuple[int, int], message: str, hint: str) -> None:
        super().__init__(message)
        self.at = at
        self.message = message
        self.hint = hint


class _Composer:
    """Builds one document bottom-up: a collection joins its parent when it ends."""

    def __init__(self, source: Source, report: Report) -> None:
        self.source = source
        self.report = report
        self.open: list[ListNode | MapNode] = []
        self.pending: list[ScalarNode | None] = []
        """Per open collection, the key whose value comes next."""
        self.merges: dict[int, list[tuple[ScalarNode, Node]]] = {}
        self.names: list[str | None] = []
        """Per open collection, its anchor."""
        self.anchors: dict[str, Node | None] = {}
        """None while what the anchor names is still open."""
        self.root: Node | None = None

    def document(self) -> Node | None:
        loader = yaml.CSafeLoader(self.source.text)
        try:
            self._read(loader)
        finally:
            loader.dispose()
        return self.root

    def _read(self, loader: yaml.CSafeLoader) -> None:
        count = documents = 0
        next_event: Any = loader.get_event
        while True:
            event = next_event()
            kind = event.__class__
            if kind is yaml.ScalarEvent:
                self._add(self._scalar(event))
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                self._start(event, MapNode if kind is yaml.MappingStartEvent else ListNode)
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                self._end()
            elif kind is yaml.AliasEvent:
                self._add(self._alias(event))
            elif kind is yaml.DocumentStartEvent:
                documents += 1
                if documents > 1:
                    _refuse(event, "a second document in the file", "remove the `---`: one file is one document")
            elif kind is yaml.StreamEndEvent:
                return
            count += 1
            if count > MAX_NODES:
                _refuse(event, "the file has too many values", f"{MAX_NODES:,} is the most; split it")

    def _scalar(self, event: Any) -> ScalarNode:
        start = event.start_mark
        text: str = event.value
        plain = not event.style and event.tag is None
        node = ScalarNode(start.line + 1, start.column + 1, text, start.index, event.end_mark.index, plain=plain)
        if event.tag is not None:
            self._check_tag(event)
            node.data = text if event.tag in ("!", "tag:yaml.org,2002:str") else parse_scalar(text)
        if "${{" in text:
            try:
                node.template = expressions.parse(text)
            except expressions.BadExpression as error:
                at = expression_position(self.source, node, error.ordinal)
                self.report.error(self.source, at, str(error), error.hint)
            else:
                node.dynamic = True
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def _alias(self, event: Any) -> Node:
        if event.anchor not in self.anchors:
            _refuse(event, f"`*{event.anchor}` names no anchor above it", f"mark a value with `&{event.anchor}`")
        node = self.anchors[event.anchor]
        if node is None:
            _refuse(event, f"`*{event.anchor}` stands inside what it names", "an alias cannot contain itself")
        return node

    def _start(self, event: Any, make: type[ListNode | MapNode]) -> None:
        if len(self.open) >= MAX_DEPTH:
            _refuse(event, f"nested deeper than {MAX_DEPTH} levels", _UNCLOSED)
        if event.tag is not None:
            self._check_tag(event)
        if event.anchor:
            self.anchors[event.anchor] = None
        self.open.append(make(event.start_mark.line + 1, event.start_mark.column + 1))
        self.pending.append(None)
        self.names.append(event.anchor)

    def _end(self) -> None:
        node = self.open.pop()
        self.pending.pop()
        if isinstance(node, ListNode):
            children = node.items
        else:
            if (merges := self.merges.pop(id(node), None)) is not None:
                self._merge(node, merges)
            children = node.entries.values()
        node.size += sum([child.size for child in children])
        if node.size > MAX_EXPANDED:
            raise _Refused(node.at, "the aliases in this value expand to too much", "write it out, or use fewer")
        if any(child.dynamic for child in children):
            node.dynamic = True
        elif isinstance(node, ListNode):
            node.data = [child.data for child in node.items]
        else:
            node.data = {key: child.data for key, child in node.entries.items()}
        if (anchor := self.names.pop()) is not None:
            self.anchors[anchor] = node
        self._add(node)

    def _add(self, node: Node) -> None:
        if not self.open:
            self.root = node
            return
        parent = self.open[-1]
        if isinstance(parent, ListNode):
            parent.items.append(node)
        elif (key := self.pending[-1]) is None:
            if not isinstance(node, ScalarNode):
                hint = "quote the key, or a value that starts with `{` or `[`"
                raise _Refused(node.at, "a key must be text, not a list or mapping", hint)
            self.pending[-1] = node
        else:
            self.pending[-1] = None
            self._entry(parent, key, node)

    def _entry(self, parent: MapNode, key: ScalarNode, value: Node) -> None:
        if key.text == "<<" and key.plain:
            self.merges.setdefault(id(parent), []).append((key, value))
        elif (first := parent.keys.get(key.text)) is not None:
            message = f"key `{key.text}` appears twice"
            self.report.error(self.source, key.at, message, f"the first is in line {first.line}")
        else:
            parent.keys[key.text] = key
            parent.entries[key.text] = value

    def _merge(self, node: MapNode, merges: list[tuple[ScalarNode, Node]]) -> None:
        """`<<: *defaults`: entries of other mappings, under the mapping's own."""
        for key, value in merges:
            for other in value.items if isinstance(value, ListNode) else [value]:
                if not isinstance(other, MapNode):
                    self.report.error(self.source, key.at, "`<<` merges mappings only", "write `<<: *name`")
                    continue
                for name, entry in other.entries.items():
                    if node.entries.setdefault(name, entry) is entry:
                        node.keys.setdefault(name, other.keys[name])

    def _check_tag(self, event: Any) -> None:
        if event.tag != "!" and event.tag not in _CORE_TAGS:
            shown = cast(str, event.tag).replace("tag:yaml.org,2002:", "!!")
            _refuse(event, f"the tag `{shown}` is not allowed", "plain YAML only: remove the tag")


def _refuse(event: Any, message: str, hint: str) -> NoReturn:
    mark = event.start_mark
    raise _Refused((mark.line + 1, mark.column + 1), message, hint)


def _report_syntax(source: Source, error: yaml.MarkedYAMLError, report: Report) -> None:
    problem = error.problem or "cannot be read"
    end = len(source.text.rstrip())
    # The end of the file says nothing: told is where something was opened, else the last character.
    known = [mark for mark in (error.problem_mark, error.context_mark) if mark is not None and mark.index < end]
    at = (known[0].line + 1, known[0].column + 1) if known else source.position(max(end - 1, 0))
    if "nesting depth" in problem:
        report.error(source, at, f"nested deeper than {MAX_DEPTH} levels", _UNCLOSED)
        return
    at_end = error.problem_mark is None or error.problem_mark.index >= end
    hint = _UNCLOSED if at_end else _syntax_hint(source.line(at[0]), at[1], problem)
    context = f", {error.context}" if error.context else ""
    report.error(source, at, f"not valid YAML: {problem}{context}", hint)


def _syntax_hint(line: str, column: int, problem: str) -> str:
    if "\t" in line[:column]:
        return "YAML is indented with spaces; replace the tab"
    if "${{" in line[: column + 2] and "did not find expected" in problem:
        return 'within `[ ]` and `{ }`, put an expression in quotes: "${{ name }}"'
    if "mapping values are not allowed" in problem:
        return "a value that holds `: ` needs quotes; else the indentation is wrong"
    if line[column - 1 : column] in tuple(":@`%&*!"):
        return "put the value in quotes"
    return "check the indentation, brackets and quotes around here"
