"""Whatever is put in the place of a key or value of a right file, it plans, or what is told lies where it was put."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from dstack.providers import registry
from dstack.workflows import Diagnostic, Invalid, ReusedInput, load, plan
from dstack.workflows.composing import compose
from dstack.workflows.diagnostics import Report, Source
from dstack.workflows.nodes import ListNode, MapNode, Node

FILE = ".dstack/workflows.yaml"
TEXT = """\
x-base: &base
  provider: bash
  env: {A: b, C: d}
workflows:
  - name: prepare
    provider: python
    script: prepare.py
    help: Makes the data
    args: [--rows, 10]
    artifacts:
      - data
      - path: more
        mount: true
    requirements: requirements.txt
  - name: train
    provider: python
    file: train.py
    version: 3.10
    depends-on:
      - prepare
      - prepare:latest
    deps: [{workflow: prepare}, {tag: best}]
    resources:
      cpu: {count: 2}
      memory: 1GB
      gpu: ${{ gpus }}
      interruptible: no
    timeout: 1h30m
    retry: {on: [lost, oom], max: 2, backoff: 30s}
    working_dir: src
  - <<: *base
    name: evaluate
    commands: |
      echo one
      echo ${{ run.name }}
    depends-on: [train]
    if: always()
    fail-fast: true
    code:
      exclude: ["*.bin"]
"""
VARIABLES = "variables: {global: {gpus: {type: int, default: 1, max: 8}}}\n"
JUNK = [
    "x", "[]", "{}", "[[1]]", "{a: {b: c}}", "'", '"', "[", "{", "]", "}", "*a", "&a", "@x", "!t x", "- x", "a: b",
    "a: b: c", "\t", "%", "|", "> x", "? ", "-1", "1e3", "3.14", "~", "", "${{ x", "${{ }}", "${{ gone }}", "true",
    "/abs", "../up", "x y z", "a\n  b: c", "\n", "\n- x", "x #", "'a' b", "\u00a0x", "“x”", "9" * 30, "0x1F", "yes",
    "{{ gpus }}", "${{ secrets.x }}", "failed(", "!!python/object:x y", "a\0b", "a\x1bb", "\ud800", "*base",
]  # fmt: skip
junk = st.sampled_from(JUNK) | st.text("ab:-[]{}'\"#&*!|>%@`, \t$0.", max_size=8) | st.text(max_size=4)


class Part(NamedTuple):
    """A key, value or item of the text, and what its mistakes are told within: for a key the mapping, which then lacks
    it, with the mapping's own key; for a value all from its key on."""

    name: str | int
    start: int
    end: int
    first: int
    last: int


def parts(node: Node, begin: int = 0) -> Iterator[Part]:
    if isinstance(node, MapNode):
        for name, value in node.entries.items():
            if name not in node.uses:
                key = node.keys[name]
                yield Part(name, key.start, key.end, begin, node.end)
                yield Part(name, value.start, value.end, key.start, value.end)
                yield from parts(value, key.start)
    elif isinstance(node, ListNode):
        for index, item in enumerate(node.items):
            yield Part(index, item.start, item.end, item.start, item.end)
            yield from parts(item, item.start)


def tree() -> Node:
    root = compose(Source(FILE, TEXT), Report())
    assert root is not None
    return root


# Other places name what these say, and are then what is wrong.
PARTS = [part for part in parts(tree()) if part.name not in ("name", "x-base", "workflows")]


def told(text: str) -> list[Diagnostic]:
    def found(*_: str | None) -> list[ReusedInput]:
        return [ReusedInput("made", b"m", b"c", "goose-1", "prepare", "prepare", None)]

    try:
        workflows = load({FILE: text, ".dstack/variables.yaml": VARIABLES}, registry())
        plan(
            workflows,
            "evaluate",
            [],
            run_name="goose-2",
            read_text=lambda path: "",
            resolve_tag=found,
            newest_done=found,
        )
    except Invalid as error:
        return error.diagnostics
    return []


def test_the_file_that_is_mutated_plans() -> None:
    assert told(TEXT) == []
    assert len(PARTS) > 80


@settings(max_examples=400)
@given(st.sampled_from(PARTS), junk)
@example(next(part for part in PARTS if part.name == "env"), '"')
def test_a_mutation_plans_or_is_told_where_it_is(part: Part, put: str) -> None:
    # Another provider changes which keys are right; what stands for a whole workflow is told where it is defined, and
    # of what is used twice in one workflow, only one use is told.
    assume(put not in registry())
    is_workflow, is_merged = "name:" in TEXT[part.start : part.end], part.start > TEXT.index("<<: *base")
    assume(put.strip() != "*base" or not (is_workflow or is_merged))
    end = part.start + len(TEXT[part.start : part.end].rstrip())
    text = TEXT[: part.start] + put + TEXT[end:]

    found = told(text)

    source = Source(FILE, text)
    first = source.position(part.first)[0]
    last = source.position(max(part.last - (end - part.start), part.start) + len(put))[0]
    assert not found or any(first <= line <= last for diagnostic in found for line in lines(diagnostic)), found


def lines(diagnostic: Diagnostic) -> list[int]:
    """Where it is, and where it says that an alias of what it is about stands, or what that alias names."""
    if diagnostic.line is None:
        return []
    return [diagnostic.line, *map(int, re.findall(r"`[*&]base` (?:in line |is none \(line )(\d+)", diagnostic.message))]
