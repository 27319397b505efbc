"""`depends-on` and `deps`: what they say, and the order in which workflows run."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from dstack.workflows.diagnostics import Report, Source
from dstack.workflows.nodes import ListNode, MapNode, Node

WORKFLOW_NAME = re.compile(r"\w[\w.-]{0,99}")

_DEPENDENCY = re.compile(r"(?P<workflow>\w[\w.-]{0,99})?(?::(?P<tag>\w[\w.-]{0,99}))?")


@dataclass(frozen=True, slots=True)
class Dependency:
    """`run`: in the same run, first. `newest`: the newest successful run of it. `tag`: what the tag points at.

    `workflow` is None for all workflows that a tag has; `at` is where it stands.
    """

    kind: Literal["run", "newest", "tag"]
    workflow: str | None
    tag: str | None
    at: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.workflow or ''}{':' + self.tag if self.tag else ''}"


def read(
    source: Source, node: MapNode, data: dict[str, Any], unknown: Collection[int], report: Report
) -> tuple[Dependency, ...]:
    """The dependencies of a workflow; those with an expression that has no value yet are left out."""
    found: dict[tuple[str, str | None, str | None], Dependency] = {}
    for key, bare in (("depends-on", "run"), ("deps", "newest")):
        if key not in data:
            continue
        for item, place in _items(node.entries[key], data[key], unknown):
            dependency = _parse(item, bare, place, source, report)
            if dependency is not None:
                found.setdefault((dependency.kind, dependency.workflow, dependency.tag), dependency)
    return tuple(found.values())


def _items(node: Node, value: Any, unknown: Collection[int]) -> Iterable[tuple[str, Node]]:
    """Texts in canonical form with their places; whatever has a wrong type is left to the schema."""
    nodes = node.items if isinstance(node, ListNode) else [node]
    values = cast("list[Any]", value) if isinstance(value, list) else [value]
    for item, place in zip(values, nodes, strict=True):
        if isinstance(item, dict):
            assert isinstance(place, MapNode)
            for key, prefix in (("workflow", ""), ("tag", ":")):
                name = cast("dict[str, Any]", item).get(key)
                if isinstance(name, str) and id(place.entries[key]) not in unknown:
                    yield prefix + name, place.entries[key]
        elif isinstance(item, str) and id(place) not in unknown:
            yield item, place


def _parse(text: str, bare: str, place: Node, source: Source, report: Report) -> Dependency | None:
    match = _DEPENDENCY.fullmatch(text)
    if match is None or not text:
        shown = text if len(text) <= 60 else text[:60] + "…"
        hint = "write `WORKFLOW`, `WORKFLOW:TAG` or `:TAG`"
        report.error(source, place.at, f"`{shown}` is not a dependency", hint)
        return None
    workflow, tag = match["workflow"], match["tag"]
    if tag is not None:
        return Dependency("tag", workflow, tag, place.at)
    return Dependency("run" if bare == "run" else "newest", workflow, None, place.at)


def order(
    roots: Iterable[str], needs: Callable[[str], Sequence[str]], on_cycle: Callable[[list[str]], None]
) -> list[str]:
    """What `roots` reach, each name once and after what it needs, in the order written.

    Calls `on_cycle` with `[a, b, a]` for cycles, at least one for each group of names that depend on each other.
    """
    done: dict[str, None] = {}
    in_cycle: set[str] = set()
    for root in roots:
        if root in done:
            continue
        path: dict[str, None] = {root: None}
        stack = [iter(needs(root))]
        while stack:
            for name in stack[-1]:
                if name in path:
                    _close_cycle(name, path, in_cycle, on_cycle)
                elif name not in done:
                    path[name] = None
                    stack.append(iter(needs(name)))
                    break
            else:
                stack.pop()
                done[path.popitem()[0]] = None
    return list(done)


def _close_cycle(name: str, path: dict[str, None], in_cycle: set[str], on_cycle: Callable[[list[str]], None]) -> None:
    last = next(reversed(path))
    # Dense tangles hold more cycles than anyone can read: one is told for each pair of new names.
    if name in in_cycle and last in in_cycle:
        return
    names = list(path)
    cycle = [*names[names.index(name) :], name]
    in_cycle.update(cycle)
    on_cycle(cycle)
