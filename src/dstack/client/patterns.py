"""`code: {include, exclude}` of workflow files, read where the files are: the server tells of mistakes.

Patterns at the root of a file hold for every run; those of a workflow for the runs that it, or what it depends on, is
part of. No YAML is parsed where no file has the word `code`, nor for texts whose patterns were read before.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dstack.client.cache import CodeCache
    from dstack.workflows.nodes import MapNode, Node

    Patterns = tuple[list[str], list[str]]

_NAMES_WORKFLOW = ("depends-on", "deps")


def code_patterns(files: Mapping[str, str], workflow: str, cache: CodeCache | None = None) -> Patterns:
    """(include, exclude) for a run of `workflow`; `cache` spares reading the same texts again."""
    told = {path: text for path, text in files.items() if "code" in text}
    if not any(re.search(r"""\bcode["']?\s*:""", text) for text in told.values()):
        return [], []
    # Also files without the word say what depends on what.
    known = cache.patterns(files, workflow) if cache is not None else None
    if known is None:
        known = _read(files, workflow)
        if cache is not None:
            cache.remember_patterns(files, workflow, known)
    return known


def _read(files: Mapping[str, str], workflow: str) -> Patterns:
    from dstack.workflows.composing import compose
    from dstack.workflows.diagnostics import Report, Source
    from dstack.workflows.nodes import ListNode, MapNode

    include: list[str] = []
    exclude: list[str] = []

    def take(node: MapNode) -> None:
        code = node.entries.get("code")
        if isinstance(code, MapNode):
            include.extend(_texts(code.entries.get("include")))
            exclude.extend(_texts(code.entries.get("exclude")))

    workflows: dict[str, MapNode] = {}
    for path, text in files.items():
        root = compose(Source(path, text), Report())
        if not isinstance(root, MapNode):
            continue
        take(root)
        listed = root.entries.get("workflows")
        for node in listed.items if isinstance(listed, ListNode) else ():
            if isinstance(node, MapNode):
                for name in _texts(node.entries.get("name")):
                    workflows.setdefault(name, node)
    reached: set[str] = set()
    waiting = [workflow]
    while waiting:
        name = waiting.pop()
        if name in reached or name not in workflows:
            continue
        reached.add(name)
        take(workflows[name])
        for key in _NAMES_WORKFLOW:
            waiting += (text.partition(":")[0] for text in _named(workflows[name].entries.get(key)))
    return list(dict.fromkeys(include)), list(dict.fromkeys(exclude))


def _texts(node: Node | None) -> Iterator[str]:
    from dstack.workflows.nodes import ListNode, ScalarNode

    for item in node.items if isinstance(node, ListNode) else [node]:
        if isinstance(item, ScalarNode) and item.text:
            yield item.text


def _named(node: Node | None) -> Iterator[str]:
    """Names of workflows among dependencies, in whatever form they stand."""
    from dstack.workflows.nodes import ListNode, MapNode

    for item in node.items if isinstance(node, ListNode) else [node]:
        if isinstance(item, MapNode):
            yield from _named(item.entries.get("workflow"))
            yield from _named(item.entries.get("workflows"))
        else:
            yield from _texts(item)
