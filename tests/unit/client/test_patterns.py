"""`code:` of workflow files: what holds for which run, and what is read to know it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dstack.client import patterns
from dstack.client.cache import CodeCache
from dstack.client.patterns import code_patterns

FILES = {
    ".dstack/workflows.yaml": """\
code: {include: [shared.csv], exclude: '*.md'}
x-base: &base
  code:
    include: [base.bin]
workflows:
  - <<: *base
    name: prepare
    provider: bash
  - name: train
    provider: python
    depends-on: [prepare, 'eval:latest']
    code: {include: [data/, shared.csv], exclude: [notes/]}
  - name: other
    provider: bash
    code: {include: [other.bin]}
    deps: {workflow: train}
  - name: eval
    provider: bash
    depends-on: other:tag
""",
    ".dstack/workflows/more.yaml": """\
code: {exclude: [more/]}
workflows:
  - {name: alone, provider: bash, code: {include: "x"}}
""",
}


@pytest.mark.parametrize(
    ("workflow", "include", "exclude"),
    [
        ("prepare", ["shared.csv", "base.bin"], ["*.md", "more/"]),
        ("alone", ["shared.csv", "x"], ["*.md", "more/"]),
        ("eval", ["shared.csv", "other.bin", "data/", "base.bin"], ["*.md", "more/", "notes/"]),
        ("unknown", ["shared.csv"], ["*.md", "more/"]),
    ],
)
def test_patterns_of_a_run_are_those_of_all_that_it_may_run(
    workflow: str, include: list[str], exclude: list[str]
) -> None:
    found = code_patterns(FILES, workflow)
    assert (sorted(found[0]), sorted(found[1])) == (sorted(include), sorted(exclude))


@pytest.mark.parametrize(
    "text",
    [
        "workflows: [{name: a, code: 3}]",
        "workflows: [{name: a, code: {include: {a: b}}}]",
        "workflows: {code: {include: [x]}}",
        "code: [a",
        "code: &a [*a]",
        "- code: 1",
        "code: {include: [[x]]}",
        "\tcode: x",
    ],
)
def test_mistakes_are_the_servers_to_tell(text: str) -> None:
    assert code_patterns({".dstack/workflows.yaml": text}, "a") == ([], [])


def test_texts_without_the_key_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "_read", None)  # calling it would fail
    for text in ("workflows: []", "workflows:\n  - name: decode\n    commands: [barcode, 'code x']\n"):
        assert code_patterns({".dstack/workflows.yaml": text}, "a") == ([], [])


def test_the_same_texts_are_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = code_patterns(FILES, "train", CodeCache(str(tmp_path), "/root", ""))
    code_patterns(FILES, "alone", CodeCache(str(tmp_path), "/root", ""))
    monkeypatch.setattr(patterns, "_read", lambda *_: (["read"], []))
    assert code_patterns(FILES, "train", CodeCache(str(tmp_path), "/root", "")) == first
    changed = FILES | {".dstack/variables.yaml": "variables: {}"}
    assert code_patterns(changed, "train", CodeCache(str(tmp_path), "/root", "")) == (["read"], [])
