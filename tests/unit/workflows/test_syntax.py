"""Whatever the YAML parser refuses is told in a sentence of ours, at the place of the mistake, with what to write."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
import yaml._yaml  # pyright: ignore[reportMissingTypeStubs, reportMissingImports]

from dstack.workflows.composing import compose
from dstack.workflows.diagnostics import Diagnostic, Report, Source
from dstack.workflows.syntax import PROBLEMS

FALLBACK = "this is not valid YAML"

# A text for every problem of the parser.
TEXTS = {
    "found character that cannot start any token": "a: @b",
    "could not find expected ':'": "a: b\nc\nd: e",
    "block sequence entries are not allowed in this context": "a: - b",
    "mapping keys are not allowed in this context": "a: ? b",
    "mapping values are not allowed in this context": "a: b: c",
    "found unexpected ':'": "[a:]",
    "found unexpected document indicator": "a: 'b\n---\n",
    "found unexpected end of stream": "a: 'b",
    "found unknown escape character": 'a: "\\d"',
    "did not find expected hexdecimal number": 'a: "\\xg"',
    "found invalid Unicode character escape code": 'a: "\\ud800"',
    "found a tab character that violates indentation": "a:\n  b: c\n\td: e",
    "found a tab character where an indentation space is expected": "a: |\n\tb",
    "did not find expected alphabetic or numeric character": "a: *.py",
    "did not find expected comment or line break": "a: > b",
    "found an indentation indicator equal to 0": "a: |0\n  b",
    "did not find expected whitespace or line break": "a: !b!c,d e",
    "did not find the expected '>'": "a: !<b c",
    "did not find expected '!'": "%TAG !a tag:b\n---\nc: d",
    "did not find expected tag URI": "a: !<> b",
    "did not find URI escaped octet": "a: !%zz b",
    "found an incorrect leading UTF-8 octet": "a: !%ff b",
    "found an incorrect trailing UTF-8 octet": "a: !%c3%41 b",
    "found undefined tag handle": "a: !b!c d",
    "found unexpected non-alphabetical character": "%a,b\n---\nc: d",
    "could not find expected directive name": "% a\n---\nc: d",
    "found unknown directive name": "%a\n---\nc: d",
    "found extremely long version number": "%YAML 1.1111111111\n---\na: b",
    "did not find expected digit or '.' character": "%YAML 1a\n---\na: b",
    "did not find expected version number": "%YAML a\n---\na: b",
    "did not find expected whitespace": "%TAG !a!b tag:c\n---\nd: e",
    "did not find expected <document start>": "a: b\n...\nc",
    "did not find expected node content": "a: [b,,c]",
    "did not find expected '-' indicator": "- a\nb: c",
    "did not find expected key": "a: [b] c",
    "did not find expected ',' or ']'": "a: [b\nc: d]",
    "did not find expected ',' or '}'": "a: {b: [c] d}",
    "found duplicate %YAML directive": "%YAML 1.1\n%YAML 1.1\n---\na: b",
    "found duplicate %TAG directive": "%TAG !a! b\n%TAG !a! b\n---\na: b",
    "found incompatible YAML document": "%YAML 2.0\n---\na: b",
}


def said(text: str) -> Diagnostic:
    report = Report()
    compose(Source("f.yaml", text), report)
    (diagnostic,) = report.diagnostics()
    return diagnostic


@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_problem_of_the_parser_is_a_sentence(problem: str) -> None:
    text = TEXTS[problem]
    with pytest.raises(yaml.MarkedYAMLError) as caught:
        list(yaml.parse(text, Loader=yaml.CSafeLoader))

    diagnostic = said(text)

    assert caught.value.problem == problem
    assert diagnostic.message != FALLBACK
    assert problem not in diagnostic.message
    assert diagnostic.hint


def test_no_problem_of_the_parser_is_missing() -> None:
    library = Path(yaml._yaml.__file__).read_bytes()  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    texts = re.findall(
        rb"(?<=\0)(?:did not find|could not find|found|block sequence entries|mapping keys|mapping values)[ -~]+",
        library,
    )
    problems = {text.decode() for text in texts}

    assert len(problems) > 30
    # The loader starts the stream itself.
    assert problems - {"did not find expected <stream-start>"} == set(PROBLEMS)


WORKFLOW = "workflows:\n  - name: a\n    provider: bash\n"


@pytest.mark.parametrize(
    ("lines", "at", "message", "hint"),
    [
        ("    help: it's: a", (4, 15), "cannot hold `: `", '`"it\'s: a"`'),
        ("    help: a: b # c", (4, 12), "cannot hold `: `", '`"a: b"`'),
        ("    commands:[x]", (4, 13), "no space after this `:`", "`commands: [x]`"),
        ("    commands\n", (4, 5), "no `:` after `commands`", "`commands: VALUE`"),
        ("    commands = x", (4, 5), "not `=`", "`commands: x`"),
        ("    commands: x\n    and more\n    help: x", (5, 5), "neither `key: value` nor `- item`", "indent it deeper"),
        ("    commands: - x", (4, 15), "cannot begin in the line of its key", "`[x]`"),
        ("    commands: [x\n    help: y", (4, 15), "the `[` opened here is not closed", "`]`"),
        ("    env: {A: b\n    help: y", (4, 10), "the `{` opened here is not closed", "`}`"),
        ("    commands: [x}", (4, 17), "`}` closes the wrong bracket", "`]`"),
        ("    commands: [x]]", (4, 18), "`]` closes a bracket that is not open", "remove it"),
        ("    commands: [x] y", (4, 19), "`y` follows a value that has ended", '`"[x] y"`'),
        ("    commands: [x,,y]", (4, 18), "no value before this `,`", "remove one"),
        ("    deps: [:v3]", (4, 12), "cannot start with `:`", '`":v3"`'),
        ("    args: [--lr, ${{ lr }}]", (4, 18), "needs quotes", '`"${{ lr }}"`'),
        ("    env: {A: ${{ lr }}}", (4, 14), "needs quotes", '`"${{ lr }}"`'),
        ("    commands: {{ seed }}", (4, 15), "`{{ }}` is not an expression", '`"${{ seed }}"`'),
        ("    commands: *.py", (4, 15), "`*` at the start of a value", '`"*.py"`'),
        ("    commands: *all", (4, 15), "names no anchor", '`"*all"`'),
        ("    commands: &&x", (4, 15), "`&` at the start of a value", '`"&&x"`'),
        ("    commands: @x y # z", (4, 15), "cannot start with `@`", '`"@x y"`'),
        ("    commands: %x", (4, 15), "cannot start with `%`", '`"%x"`'),
        ("    commands: `x`", (4, 15), "cannot start with a backtick", '`"`x`"`'),
        ("    commands: !x", (4, 15), "the tag `!x` is not allowed", "in quotes"),
        ("    commands: !!python/object:x y", (4, 15), "`!!python/object:x` is not allowed", "remove it"),
        ("    commands: > x", (4, 17), "text follows `>`", '`"> x"`'),
        ("    commands: |\n  x", (5, 3), "too little to belong to the text of `commands: |`", "column 7"),
        ("    commands: |\n        x\n      y\n    help: z", (6, 7), "too little to belong", "column 7"),
        ('    commands: "a\\d"', (4, 17), "`\\d` means nothing", "`\\\\d`"),
        ('    commands: "a" b', (4, 19), "`b` stands after the closing quote", "`'\"a\" b'`"),
        ("    help: 'don't'", (4, 15), "goes on after this quote", "`''`"),
        ('    help: "a\n    commands: ["x"]', (4, 11), "closed only in line 5", "missing in line 4"),
        ("    help: 'a", (4, 11), "the quote `'` opened here is not closed", "close it"),
        ("\thelp: a", (4, 1), "indented with a tab", "spaces"),
        ("    commands:\n\t- a", (5, 1), "indented with a tab", "spaces"),
        ("    help:\u00a0a", (4, 10), "a non-breaking space (U+00A0)", "plain space"),
        ("\u00a0   help: a", (4, 1), "a space that is no plain one", "type `help` again"),
        ("    help: “a: b”", (4, 11), "`“` is no quote", '`"`'),
        ("   help: a", (4, 4), "indented like nothing above it", "align it with `provider` in line 3 (column 5)"),
        ("   - name: b", (4, 4), "indented like nothing above it", "align it with `- name: a` in line 2 (column 3)"),
        ("  help: a", (4, 3), "`help` stands beside the list's items", "line 2 (column 5)"),
        ("      help: a", (4, 7), "deeper than `provider`, which has a value", "line 3 (column 5)"),
        ('    help: "a\n    artifacts: ["*.bin"]', (4, 11), "closed only in line 5", "missing in line 4"),
        ("    env: {\n    artifacts:\n      - a", (4, 10), "the `{` opened here is not closed", "`}`"),
        ("    env: {\n      A: b\n      C: d\n    }", (6, 7), "a `,` is missing before `C`", "line above"),
        ("    commands: [- x]", (4, 16), "`- ` cannot stand within `[ ]`", "remove the `-`"),
        ("    : y", (4, 5), "no key before this `:`", "`key: value`"),
        ("    help: a\x1bb", (4, 12), "the control character U+001B", '`"\\x1b"`'),
        ("    <<: 3", (4, 5), "`<<` merges mappings only", "`<<: *name`"),
    ],
)
def test_the_place_and_what_to_write(lines: str, at: tuple[int, int], message: str, hint: str) -> None:
    diagnostic = said(WORKFLOW + lines + "\n")

    assert message in diagnostic.message
    assert hint in diagnostic.hint
    assert (diagnostic.line, diagnostic.column) == at


def test_an_item_beside_keys() -> None:
    diagnostic = said("x:\n  a: b\n- c\n")

    assert (diagnostic.line, diagnostic.column) == (3, 1)
    assert diagnostic.message == "an item of a list cannot stand beside keys"


def test_the_first_of_several_dashes_without_a_space_is_shown() -> None:
    diagnostic = said("workflows:\n  -name: a\n   provider: b\n")

    assert (diagnostic.line, diagnostic.column, diagnostic.message) == (2, 3, "there is no space after this `-`")


def test_a_dash_without_a_space_that_is_still_yaml_is_a_warning() -> None:
    diagnostic = said(WORKFLOW + "    commands:\n      -x\n      -y\n")

    assert (diagnostic.severity, diagnostic.line) == ("warning", 5)
    assert diagnostic.message == "`-x` is not an item of a list"
    assert "`- x`" in diagnostic.hint


@pytest.mark.parametrize("text", ["w\0o\0r\0k\0", "a: b\0"])
def test_a_file_in_another_encoding_says_so(text: str) -> None:
    diagnostic = said(text)

    assert "UTF-8" in diagnostic.message
    assert "UTF-16" in diagnostic.hint


def test_a_byte_order_mark_moves_nothing() -> None:
    diagnostic = said("\ufeffa: b: c")

    assert (diagnostic.line, diagnostic.column, diagnostic.source) == (1, 5, "a: b: c")
