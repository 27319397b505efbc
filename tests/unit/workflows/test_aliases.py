"""Anchors, aliases and `<<`: what they bring is told where it is defined, once, and says where it is used."""

from __future__ import annotations

from dstack.workflows.aliases import Uses
from dstack.workflows.composing import compose
from dstack.workflows.diagnostics import Report, Source
from dstack.workflows.nodes import ListNode, MapNode, Node

TEXT = """\
x-base: &base
  commands: &commands [echo]
  env: {A: b}
x-other: &other {help: words}
workflows:
  - <<: [*base, *other]
    name: train
    env: {A: c}
  - name: test
    before_run: *commands
  - &again
    name: again
    before_run: &first [true]
    setup: *first
"""


def tree() -> tuple[Source, MapNode]:
    source = Source("f.yaml", TEXT)
    root = compose(source, Report())
    assert isinstance(root, MapNode)
    return source, root


def workflow(root: MapNode, index: int) -> Node:
    workflows = root.entries["workflows"]
    assert isinstance(workflows, ListNode)
    return workflows.items[index]


def test_merged_entries_give_way_to_the_mapping_s_own() -> None:
    _, root = tree()

    assert workflow(root, 0).data == {"commands": ["echo"], "env": {"A": "c"}, "help": "words", "name": "train"}


def test_each_use_is_found_by_the_place_of_its_definition() -> None:
    source, root = tree()
    train, test = Uses(workflow(root, 0)), Uses(workflow(root, 1))

    def at(line: int, text: str) -> int:
        return source.index((line, TEXT.splitlines()[line - 1].index(text) + 1))

    def use(uses: Uses, line: int, text: str) -> tuple[str, int, int] | None:
        brought = uses.of(at(line, text))
        return None if brought is None else (brought.use.name, brought.use.line, brought.use.column)

    assert use(train, 2, "commands") == ("base", 6, 10)
    assert use(train, 2, "echo") == ("base", 6, 10)
    assert use(train, 4, "words") == ("other", 6, 17)
    assert use(train, 7, "train") is None
    assert use(test, 2, "echo") == ("commands", 10, 17)
    assert use(test, 3, "A: b") is None


def test_what_a_workflow_defines_itself_is_its_own() -> None:
    source, root = tree()

    assert Uses(workflow(root, 2)).of(source.index((13, 24))) is None


def test_what_cannot_stand_where_it_is_used_is_told_there() -> None:
    source, root = tree()
    report = Report()
    with report.about(Uses(workflow(root, 1))):
        report.error(source, (2, 13), "expected text, not a list")

    (found,) = report.diagnostics()
    assert (found.line, found.column) == (10, 17)
    assert found.message == "expected text, not a list (`&commands` is in line 2)"
    assert found.source == "    before_run: *commands"


def test_an_alias_that_cannot_be_a_key_is_told_where_it_stands() -> None:
    report = Report()
    compose(Source("f.yaml", "a: &a [x]\n*a : b\n"), report)

    (found,) = report.diagnostics()
    assert (found.line, found.column) == (2, 1)


def test_a_mistake_behind_an_alias_is_told_once_with_its_use() -> None:
    source, root = tree()
    report = Report()
    for index in range(2):
        with report.about(Uses(workflow(root, index))):
            report.error(source, (2, 24), "no such program")
    report.error(source, (7, 11), "somewhere else")

    assert [(found.line, found.message) for found in report.diagnostics()] == [
        (2, "no such program (used as `*base` in line 6)"),
        (7, "somewhere else"),
    ]
