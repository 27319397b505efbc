"""YAML text → a tree of nodes, within limits.

The tree is composed from the events of PyYAML's C parser rather than by its own composer: that one recurses (deep
nesting ends the process), resolves YAML 1.1 types in Python for each scalar (twice the time), lets duplicate keys pass
and has no limits. Everything here is linear in the text and bounded by the limits below.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn, cast

import yaml

from dstack.sdk.scalars import parse_scalar
from dstack.workflows import expressions, syntax
from dstack.workflows.aliases import Use
from dstack.workflows.diagnostics import Report, Source
from dstack.workflows.nodes import ListNode, MapNode, Node, ScalarNode, expression_position

MAX_SIZE = 2 * 2**20
"""Bytes of one file."""
MAX_TOTAL_SIZE = 8 * 2**20
"""Bytes of all files that are read together."""
MAX_DEPTH = 40
"""Levels of lists and mappings, also when every alias is written out."""
MAX_NODES = 200_000
"""Values of all files that are read together."""
MAX_EXPRESSIONS = 50_000
MAX_EXPANDED = 400_000
"""Nodes when every alias is written out, long texts counting once more per 64 characters."""

_WORKFLOW_DEPTH = 3
"""Where the keys of a workflow stand: in the file's mapping, the list under `workflows`, the item of it."""
_BRACES = re.compile(r"\{\{\s*[\w.-]+\s*\}\}")
_CORE_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map"))


class Allowance:
    """What all files that are read together may still hold."""

    def __init__(self) -> None:
        self.bytes = MAX_TOTAL_SIZE
        self.nodes = MAX_NODES
        self.merged = MAX_EXPANDED
        """Entries that `<<` may still look at."""


def compose(source: Source, report: Report, allowance: Allowance | None = None) -> Node | None:
    """The one document of a file; None where it is empty or cannot be read, which is then reported.

    Files that are read together share one `allowance`.
    """
    allowance = allowance or Allowance()
    size = _size(source.text)
    allowance.bytes -= size
    if size > MAX_SIZE:
        report.error(source, (1, 1), f"the file is larger than {MAX_SIZE // 2**20} MiB", "split it or shorten it")
        return None
    if allowance.bytes < 0:
        report.leave_out_the_rest()
        message = f"the files up to this one are larger than {MAX_TOTAL_SIZE // 2**20} MiB together"
        report.error(source, (1, 1), message, "remove what is not needed; keep data out of `.dstack`")
        return None
    if source.text.count("${{") > MAX_EXPRESSIONS:
        report.error(source, (1, 1), f"the file has more than {MAX_EXPRESSIONS:,} expressions", "split it")
        return None
    composer = _Composer(source, report, allowance)
    try:
        return composer.document()
    except _Refused as refused:
        report.error(source, refused.at, refused.message, refused.hint)
    except yaml.MarkedYAMLError as error:
        found = syntax.explain(source, error, composer.so_far(), MAX_DEPTH)
        report.error(source, found.at, found.message, found.hint)
    except yaml.reader.ReaderError as error:
        found = syntax.unreadable(source, error)
        report.error(source, found.at, found.message, found.hint)
    except UnicodeEncodeError as error:
        report.error(source, source.position(error.start), "not valid Unicode text", "save the file as UTF-8 text")
    return None


def _size(text: str) -> int:
    """In bytes of UTF-8; of what is much too large, at least too much."""
    return len(text) if len(text) > MAX_SIZE or text.isascii() else len(text.encode(errors="surrogatepass"))


class _Refused(Exception):
    """The document breaks a limit; nothing more of it is read."""

    def __init__(self, at: tuple[int, int], message: str, hint: str) -> None:
        super().__init__(message)
        self.at = at
        self.message = message
        self.hint = hint


class _Composer:
    """Builds one document bottom-up: a collection joins its parent when it ends."""

    def __init__(self, source: Source, report: Report, allowance: Allowance) -> None:
        self.source = source
        self.report = report
        self.allowance = allowance
        self.quoted: tuple[int, int] | None = None
        """The last text in quotes that was read."""
        self.open: list[ListNode | MapNode] = []
        self.pending: list[ScalarNode | None] = []
        """Per open collection, the key whose value comes next."""
        self.merges: dict[int, list[tuple[ScalarNode, Node, Use | None]]] = {}
        self.names: list[str | None] = []
        """Per open collection, its anchor."""
        self.anchors: dict[str, Node | None] = {}
        """None while what the anchor names is still open."""
        self.root: Node | None = None
        self.tagged = False
        """Whether there was a tag that is not allowed: all of these are told, and no more of what they make."""

    def document(self) -> Node | None:
        loader = yaml.CSafeLoader(self.source.text)
        try:
            self._read(loader)
        finally:
            loader.dispose()
        return None if self.tagged else self.root

    def so_far(self) -> syntax.Read:
        """What was read when the parser stopped."""
        brackets = (node.start for node in reversed(self.open) if self.source.text[node.start : node.start + 1] in "[{")
        return syntax.Read(self.quoted, next(brackets, None))

    def _read(self, loader: yaml.CSafeLoader) -> None:
        documents = 0
        left = self.allowance.nodes
        next_event: Any = loader.get_event
        try:
            while True:
                event = next_event()
                kind = event.__class__
                if kind is yaml.ScalarEvent:
                    self._add(self._scalar(event))
                elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                    self._start(event, MapNode if kind is yaml.MappingStartEvent else ListNode)
                elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                    self._end(event)
                    continue
                elif kind is yaml.AliasEvent:
                    mark = event.start_mark
                    self._add(self._alias(event), Use(event.anchor, mark.line + 1, mark.column + 1))
                elif kind is yaml.DocumentStartEvent:
                    documents += 1
                    if documents > 1:
                        _refuse(event, "a second document in the file", "remove the `---`: one file is one document")
                elif kind is yaml.StreamEndEvent:
                    return
                left -= 1
                if left < 0:
                    self._refuse_more(event)
        finally:
            self.allowance.nodes = left

    def _refuse_more(self, event: Any) -> NoReturn:
        self.report.leave_out_the_rest()
        hint = f"{MAX_NODES:,} is the most, in all files together; generate fewer, or use variables"
        _refuse(event, "there are too many values", hint)

    def _scalar(self, event: Any) -> ScalarNode:
        start = event.start_mark
        text: str = event.value
        plain = not event.style and event.tag is None
        node = ScalarNode(start.line + 1, start.column + 1, text, start.index, event.end_mark.index, plain=plain)
        if event.style == '"' or event.style == "'":
            self.quoted = node.start, node.end
        if event.tag is not None:
            self._check_tag(event)
            node.data = text if event.tag in ("!", "tag:yaml.org,2002:str") else parse_scalar(text)
        if "${{" in text or self._is_condition():
            self._read_expressions(node)
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def _read_expressions(self, node: ScalarNode) -> None:
        condition = self._is_condition()
        if condition and not node.text.strip():
            return
        try:
            template = expressions.condition(node.text) if condition else expressions.parse(node.text)
        except expressions.BadExpression as error:
            at = expression_position(self.source, node, error.ordinal, error.offset)
            self.report.error(self.source, at, str(error), error.hint)
        else:
            node.template = template
            node.dynamic = not condition or (template is not None and bool(template.names))

    def _is_condition(self) -> bool:
        """Whether the value that comes next is that of a workflow's `if`."""
        return len(self.open) == _WORKFLOW_DEPTH and (key := self.pending[-1]) is not None and key.text == "if"

    def _alias(self, event: Any) -> Node:
        if event.anchor not in self.anchors:
            near = self.report.near(event.anchor, self.anchors)
            hint = near or f'mark a value above with `&{event.anchor}`; text goes in quotes: `"*{event.anchor}"`'
            _refuse(event, f"`*{event.anchor}` names no anchor above it", hint)
        node = self.anchors[event.anchor]
        if node is None:
            _refuse(event, f"`*{event.anchor}` stands inside what it names", "an alias cannot contain itself")
        if isinstance(node, ScalarNode) and self._is_condition():
            # Where it was defined, it was no condition.
            defined, node = node, ScalarNode(*node.at, node.text, node.start, node.end, plain=node.plain)
            node.data = defined.data
            self._read_expressions(node)
        return node

    def _start(self, event: Any, make: type[ListNode | MapNode]) -> None:
        if len(self.open) >= MAX_DEPTH:
            _refuse(event, syntax.too_deep(MAX_DEPTH), syntax.UNCLOSED)
        if event.tag is not None:
            self._check_tag(event)
        if event.anchor:
            self.anchors[event.anchor] = None
        mark = event.start_mark
        self.open.append(make(mark.line + 1, mark.column + 1, mark.index))
        self.pending.append(None)
        self.names.append(event.anchor)

    def _end(self, event: Any) -> None:
        node = self.open.pop()
        self.pending.pop()
        node.end = event.end_mark.index
        if self.merges and (merges := self.merges.pop(id(node), None)) is not None:
            self._merge(cast(MapNode, node), merges)
        children = node.children()
        size, height, dynamic = 1, 0, False
        for child in children:
            size += child.size
            if child.height > height:
                height = child.height
            dynamic = dynamic or child.dynamic
        node.size = size
        node.height = 1 + height
        if node.size > MAX_EXPANDED:
            raise _Refused(node.at, "the aliases in this value expand to too much", "write it out, or use fewer")
        if node.height > MAX_DEPTH:
            raise _Refused(node.at, f"with its aliases, this is {syntax.too_deep(MAX_DEPTH)}", "write it out")
        if dynamic:
            node.dynamic = True
        elif isinstance(node, ListNode):
            node.data = [child.data for child in node.items]
        else:
            node.data = {key: child.data for key, child in node.entries.items()}
        if (anchor := self.names.pop()) is not None:
            self.anchors[anchor] = node
        self._add(node)

    def _add(self, node: Node, use: Use | None = None) -> None:
        if not self.open:
            self.root = node
            return
        parent = self.open[-1]
        if isinstance(parent, ListNode):
            if use is not None:
                parent.uses[len(parent.items)] = use
            parent.items.append(node)
        elif (key := self.pending[-1]) is None:
            if not isinstance(node, ScalarNode):
                self._refuse_key(node, parent, use)
            self.pending[-1] = node
        else:
            self.pending[-1] = None
            self._entry(parent, key, node, use)

    def _refuse_key(self, node: Node, parent: MapNode, use: Use | None) -> NoReturn:
        if self.source.text.startswith("{{", parent.start):
            text = self.source.text[parent.start : parent.start + 60]
            written = f"${match[0]}" if (match := _BRACES.match(text)) is not None else "${{ name }}"
            raise _Refused(parent.at, "`{{ }}` is not an expression", f'write `"{written}"`')
        at = node.at if use is None else (use.line, use.column)
        raise _Refused(at, "a key must be text, not a list or mapping", "put text that starts so in quotes")

    def _entry(self, parent: MapNode, key: ScalarNode, value: Node, use: Use | None) -> None:
        if key.text == "<<" and key.plain:
            self.merges.setdefault(id(parent), []).append((key, value, use))
        elif key.text != key.text.strip() and key.plain:
            message = "a space that is no plain one belongs to this key"
            self.report.error(
                self.source, key.at, message, f"type `{key.text.strip()}` again, with plain spaces around"
            )
        elif (first := parent.keys.get(key.text)) is not None:
            message = f"key `{key.text}` appears twice"
            self.report.error(self.source, key.at, message, f"the first is in line {first.line}")
        else:
            parent.keys[key.text] = key
            parent.entries[key.text] = value
            if use is not None:
                parent.uses[key.text] = use
            elif value.line != key.line and isinstance(value, ScalarNode) and value.plain and value.text[:1] == "-":
                # `- x` without its space is text, which nobody means in a line of its own.
                word = value.text.split(maxsplit=1)[0]
                hint = f"for a list, write `- {word[1:]}`; text goes in quotes"
                self.report.warning(self.source, value.at, f"`{word[:40]}` is not an item of a list", hint)

    def _merge(self, node: MapNode, merges: list[tuple[ScalarNode, Node, Use | None]]) -> None:
        """`<<: *defaults`: entries of other mappings, under the mapping's own."""
        for key, value, use in merges:
            for index, other in enumerate(value.items if isinstance(value, ListNode) else [value]):
                if not isinstance(other, MapNode):
                    named = f", and `&{use.name}` is none (line {other.line})" if use is not None else ""
                    self.report.error(self.source, key.at, f"`<<` merges mappings only{named}", "write `<<: *name`")
                    continue
                self.allowance.merged -= 1 + len(other.entries)
                if self.allowance.merged < 0:
                    raise _Refused(key.at, "`<<` merges too much", "write it out, or merge less")
                brought = value.uses.get(index) if value is not other else use
                for name, entry in other.entries.items():
                    if name in node.entries:
                        continue
                    node.entries[name] = entry
                    node.keys[name] = other.keys[name]
                    if brought is not None:
                        node.uses[name] = brought

    def _check_tag(self, event: Any) -> None:
        if event.tag != "!" and event.tag not in _CORE_TAGS:
            shown = cast(str, event.tag).replace("tag:yaml.org,2002:", "!!")
            hint = "plain YAML only: remove it" if shown[:2] == "!!" else "remove it, or put the value in quotes"
            at = (event.start_mark.line + 1, event.start_mark.column + 1)
            self.tagged = True
            self.report.error(self.source, at, f"the tag `{shown[:60]}` is not allowed", hint)


def _refuse(event: Any, message: str, hint: str) -> NoReturn:
    mark = event.start_mark
    raise _Refused((mark.line + 1, mark.column + 1), message, hint)
