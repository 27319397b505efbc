"""Texts made to hang or end the process are refused at once, with a place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from dstack.workflows.composing import (
    MAX_DEPTH,
    MAX_EXPRESSIONS,
    MAX_NODES,
    MAX_SIZE,
    MAX_TOTAL_SIZE,
    Allowance,
    compose,
)
from dstack.workflows.diagnostics import Report, Source
from dstack.workflows.nodes import ListNode, MapNode, expression_position

REST = "the rest of the files was not checked"


def composed(text: str) -> tuple[object, list[str]]:
    report = Report()
    node = compose(Source("f.yaml", text), report)
    return node, [diagnostic.message for diagnostic in report.diagnostics()]


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


def maps(levels: int) -> str:
    lines = ["a0: &a0 {k: x}"]
    lines += [f"a{i}: &a{i} {{{', '.join([f'k{j}: *a{i - 1}' for j in range(9)])}}}" for i in range(1, levels)]
    return "\n".join(lines)


def chain(around: str) -> str:
    """Each value holds the one before: deep only when the aliases are written out."""
    lines = ["a0: &a0 ['${{ x }}']"]
    lines += [f"a{i}: &a{i} {around.format(f'*a{i - 1}')}" for i in range(1, 800)]
    return "\n".join(lines)


MERGES = "\n".join(
    [f"- &b {{{', '.join(f'k{i}: 1' for i in range(2000))}}}", *(f"- {{<<: *b, a: {i}}}" for i in range(300))]
)
"""Each mapping is small, and looks at many entries."""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 500_000, "nested deeper"),
        ("{a: " * 300_000, "nested deeper"),
        ("- " * 500_000, "nested deeper"),
        ("? " * 500_000, "nested deeper"),
        ("\n".join(" " * i + "a:" for i in range(1000)), "nested deeper"),
        (bomb(12), "aliases"),
        ("a: &a [*a]", "inside what it names"),
        ("a: *b", "names no anchor"),
        ("-\n" * (MAX_NODES + 10), "too many values"),
        ("a" * (MAX_SIZE + 1), "larger than 2 MiB"),
        ("a: " + "${{ x }}" * (MAX_EXPRESSIONS + 1), "expressions"),
        ("a: b\n\x00", "not a text file"),
        ("a\0:\0 \0b\0", "not a text file in UTF-8"),
        ("a: \ud800", "not valid Unicode"),
        ("a: !!python/object:os.system x", "`!!python/object:os.system` is not allowed"),
        ("a: !custom x", "`!custom` is not allowed"),
        ("!!set {a}", "`!!set` is not allowed"),
        ("[a]: b", "key must be text"),
        ("a: 1\n---\nb: 2", "second document"),
        ("%YAML 3.0\n---\na: b", "cannot begin with `%`"),
        ("\x85\x85a: [\x85", "the `[` opened here is not closed"),
        (chain("[{}]"), "with its aliases, this is nested deeper"),
        (chain("{{a: {}}}"), "with its aliases, this is nested deeper"),
        (maps(12), "aliases"),
        (MERGES, "`<<` merges too much"),
        ("a: b\n" * 2_000_000, "larger than 2 MiB"),
        ("\u8a13" * (MAX_SIZE // 3 + 1), "larger than 2 MiB"),
    ],
)
def test_hostile_text_is_refused(text: str, message: str) -> None:
    node, messages = composed(text)

    assert node is None
    assert message in messages[0]
    assert messages[1:] in ([], [REST])


def test_long_text_behind_aliases_counts_by_length() -> None:
    text = f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 400)}]"

    node, messages = composed(text)

    assert node is None
    assert "aliases" in messages[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n" * (MAX_NODES // 10), "there are too many values"),
        ("#" * (MAX_TOTAL_SIZE // 5), "the files up to this one are larger than 8 MiB together"),
    ],
)
def test_files_that_are_read_together_have_one_allowance(text: str, message: str) -> None:
    allowance, report = Allowance(), Report()

    for number in range(12):
        compose(Source(f"{number}.yaml", text), report, allowance)

    assert {diagnostic.message for diagnostic in report.diagnostics()} == {message, REST}
    assert report.hopeless


def test_what_follows_too_many_values_is_not_checked(project: Callable[..., Any]) -> None:
    workflows = "workflows:\n" + f"- {{name: a, provider: bash, commands: [{'x, ' * 1000}]}}\n" * 210

    messages = [error.message for error in project(workflows).wrong()]

    assert messages == ["there are too many values", REST]


def test_ten_thousand_workflows_are_fine() -> None:
    keys = "provider: python, script: train.py, args: [--seed, '{0}'], artifacts: [data], depends-on: [prepare:latest]"
    one = f"  - {{{{name: train-{{0}}, {keys}}}}}\n"

    _, messages = composed("workflows:\n" + "".join(one.format(number) for number in range(10_000)))

    assert messages == []


def test_depth_below_the_limit_is_fine() -> None:
    node, messages = composed("[" * MAX_DEPTH + "]" * MAX_DEPTH)

    assert isinstance(node, ListNode)
    assert messages == []


def test_nodes_hold_what_the_yaml_library_reads() -> None:
    text = 'a: [1, "2", x]\nb: {c: "d e", f: null}\ng: |\n  one\n  two\nh: >\n  x\n'

    node, _ = composed(text)

    assert isinstance(node, MapNode)
    assert node.data == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "ordinal", "position"),
    [
        ("a: b ${{ x }}", 0, (1, 6)),
        ("a: 'ü ${{ x }}'", 0, (1, 7)),
        ("\n\na: |\n  one\n  ${{ x }} and $${{ y }} and ${{ z }}\n", 2, (5, 30)),
        ("a: >-\r\n  one\r\n  ${{ x }}\r\n", 0, (3, 3)),
        ('a: "\\x24{{ x }}"', 0, (1, 4)),
    ],
)
def test_an_expression_is_found_in_the_text(text: str, ordinal: int, position: tuple[int, int]) -> None:
    source = Source("f.yaml", text)
    node = compose(source, Report())

    assert isinstance(node, MapNode)
    assert expression_position(source, node.entries["a"], ordinal) == position  # pyright: ignore[reportArgumentType]


def test_the_source_line_of_an_endless_line_is_cut() -> None:
    assert len(Source("f.yaml", "x" * 100_000).line(1)) < 250


def test_lines_break_where_yaml_breaks_them() -> None:
    source = Source("f.yaml", "a\r\nb\rc\x85d\u2028e\nf")

    assert [source.line(number) for number in range(1, 8)] == ["a", "b", "c", "d", "e", "f", ""]
    assert source.position(source.text.index("e")) == (5, 1)


def test_more_variables_than_an_environment_holds_are_refused(project: Callable[..., Any]) -> None:
    variables = "variables: {global: {" + ", ".join(f"v{i}: 1" for i in range(1001)) + "}}"

    (error,) = project("workflows: [{name: train, provider: bash, commands: [echo]}]", variables).wrong()

    assert "more than 1,000 variables" in error.message


def test_an_endless_list_is_one_error(project: Callable[..., Any]) -> None:
    (error,) = project(f"workflows: [{{name: train, provider: bash, commands: [{'~,' * 25_001}]}}]").wrong()

    assert error.message == "`commands`: has more than 25,000 items"


def test_the_nearest_of_very_many_names_is_found() -> None:
    names = [f"workflow-{i}" for i in range(20_000)]

    assert Report().near("workflow-77z", [*names, "warm-up"]).startswith("did you mean `workflow-77")
    assert Report().near("something", names) == ""


def test_what_was_read_of_a_wrong_file_counts() -> None:
    allowance, report = Allowance(), Report()

    for number in range(12):
        compose(Source(f"{number}.yaml", "- a\n" * (MAX_NODES // 10) + "- 'b"), report, allowance)

    assert "there are too many values" in [diagnostic.message for diagnostic in report.diagnostics()]
