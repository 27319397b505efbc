"""Which workflows a set of files holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from dstack.providers import registry
from dstack.workflows import Diagnostic, Invalid, Workflows, load, plan

MakeProject = Callable[..., Any]

# The brief's own example.
README = """\
workflows:
  # This workflow loads and prepares data
  - name: prepare
    provider: python
    script: prepare.py
    artifacts:
      - data

  - name: train
    help: Trains it
    provider: python
    script: train.py
    artifacts:
      - checkpoint
    depends-on:
      - prepare:latest
    resources:
      memory: 64GB
      # You can parametrize any property of a workflow using variables
      gpu: ${{ gpu }}
"""


def hello(name: str, more: str = "") -> str:
    return f"  - name: {name}\n    provider: bash\n    commands: [echo]\n{more}"


def test_workflows_know_their_place(project: MakeProject) -> None:
    workflows = project(README).load()

    assert list(workflows) == ["prepare", "train"]
    train = workflows["train"]
    assert (train.file, train.line, train.provider, train.help) == (".dstack/workflows.yaml", 9, "python", "Trains it")


def test_a_variable_without_a_value_is_a_warning_until_it_is_needed(project: MakeProject) -> None:
    (warning,) = project(README).load().warnings

    assert (warning.severity, warning.line, warning.column) == ("warning", 20, 12)
    assert "--gpu VALUE" in warning.hint


def test_files_of_the_folder_are_merged() -> None:
    files = {
        ".dstack/workflows/b.yml": "workflows:\n" + hello("b"),
        ".dstack/workflows/a.yaml": "workflows:\n" + hello("a", "    depends-on: [b, c]\n"),
        ".dstack/workflows.yaml": "workflows:\n" + hello("c"),
        ".dstack/other.yaml": "not read: [",
    }

    assert list(load(files, registry())) == ["c", "a", "b"]


@pytest.mark.parametrize(
    "keys", ["provider: python@main", "provider: {repo: https://x.org/y, name: python}", "provider: mine"]
)
def test_a_provider_that_cannot_run_yet_blocks_only_what_needs_it(keys: str, project: MakeProject) -> None:
    text = "workflows:\n" + hello("good") + f"  - name: c\n    {keys}\n    any: x\n" + hello("d", "    deps: c\n")
    files = {
        ".dstack/workflows.yaml": text + hello("e", "    depends-on: [c]\n"),
        ".dstack/providers.yaml": "providers:\n- name: mine\n  commands: [python mine.py]\n",
    }
    loaded = load(files, registry())

    assert not loaded.warnings
    assert run(loaded, "good") == []
    assert run(loaded, "bash", "-c", "echo hi") == []
    for needy in ("c", "e"):
        (error,) = run(loaded, needy)
        assert "cannot run yet" in error.message
        assert (error.line, error.column) == (6, 15)


def run(loaded: Workflows, *words: str) -> list[Diagnostic]:
    def nothing(*_: object) -> list[object]:
        raise AssertionError("it depends on nothing")

    try:
        plan(
            loaded,
            words[0],
            words[1:],
            run_name="run-1",
            read_text=lambda _: None,
            resolve_tag=nothing,  # pyright: ignore[reportArgumentType]
            newest_done=nothing,  # pyright: ignore[reportArgumentType]
        )
    except Invalid as error:
        return list(error.diagnostics)
    return []


def test_a_provider_of_the_repository_is_known_by_its_name() -> None:
    files = {".dstack/providers.yaml": "providers: [{name: mine, commands: python mine.py}]"}
    loaded = load(files, registry(), required=False)

    (error,) = run(loaded, "mine")

    assert error.message == "providers of the repository cannot run yet: `mine`"
    files[".dstack/workflows.yaml"] = "workflows:\n- {name: a, provider: mime}\n"
    with pytest.raises(Invalid) as caught:
        load(files, registry())
    assert [(d.line, d.message, d.hint) for d in caught.value.diagnostics] == [
        (2, "unknown provider `mime`", "did you mean `mine`?")
    ]


def test_all_errors_of_all_files_come_at_once() -> None:
    files = {
        ".dstack/workflows/a.yaml": "workflows:\n" + hello("a", "    depends-on: [nobody]\n    oops: 1\n"),
        ".dstack/workflows/b.yaml": "workflows: [",
        ".dstack/workflows.yaml": "workflows:\n" + hello("a"),
        ".dstack/variables.yaml": "variables:\n  global: 3\n",
    }

    with pytest.raises(Invalid) as caught:
        load(files, registry())

    found = [(d.file, d.line) for d in caught.value.diagnostics]
    assert found == [
        (".dstack/variables.yaml", 2),
        (".dstack/workflows/a.yaml", 2),
        (".dstack/workflows/a.yaml", 5),
        (".dstack/workflows/a.yaml", 6),
        (".dstack/workflows/b.yaml", 1),
    ]


def test_diagnostics_are_json_with_the_fields_of_the_interface(project: MakeProject) -> None:
    (diagnostic,) = project("workflows: 3\n").wrong()

    assert msgspec.json.decode(msgspec.json.encode(diagnostic)) == {
        "severity": "error",
        "file": ".dstack/workflows.yaml",
        "line": 1,
        "column": 12,
        "message": "`workflows` must be a list",
        "source": "workflows: 3",
        "hint": "start each with `- name: NAME`",
    }


def test_a_diagnostic_without_a_place_has_nulls() -> None:
    with pytest.raises(Invalid) as caught:
        load({}, registry())

    (diagnostic,) = caught.value.diagnostics
    assert (diagnostic.file, diagnostic.line, diagnostic.column) == (None, None, None)


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "workflows:\n", "workflows: []\n"])
def test_files_without_workflows_are_fine(text: str, project: MakeProject) -> None:
    assert len(project(text).load()) == 0


def test_a_merge_key_brings_defaults(project: MakeProject) -> None:
    text = """\
workflows:
  - &base
    name: one
    provider: bash
    commands: [echo]
    resources: {cpu: 2}
  - <<: *base
    name: two
    resources: {cpu: 3}
"""
    steps = project(text).steps("two")

    assert steps["two"].jobs[0].requirements.cpu == 3
    assert steps["two"].jobs[0].commands == ("echo",)


def test_aliases_share_lists(project: MakeProject) -> None:
    text = """\
workflows:
  - {name: one, provider: bash, commands: &c ["echo ${{ run.name }}"]}
  - {name: two, provider: bash, commands: *c}
"""
    assert project(text).steps("two")["two"].jobs[0].commands == ("echo goose-1",)


def test_a_tag_of_text_makes_text_of_a_number(project: MakeProject) -> None:
    text = "workflows:\n  - name: !!str 1\n    provider: bash\n    commands: [echo]\n    help: !!int 3\n"

    assert project(text).load()["1"].help == "3"


@pytest.mark.parametrize(
    "name", ["", "a b", "a/b", "a:b", "-a", ".a", "global", "a" * 101, "[a]", "${{ seed }}", "{a: b}", '"a\\0"']
)
def test_names_that_other_places_could_not_write_are_refused(name: str, project: MakeProject) -> None:
    errors = project(f"workflows:\n  - name: {name}\n    provider: bash\n    commands: [echo]\n").wrong()

    assert [(error.line, error.column) for error in errors] == [(2, 11 if name else 10)]


@pytest.mark.parametrize("name", ["train", "Train_1", "a.b-c", "0", "3.10", "true", "обучение"])
def test_names_are_read_as_written(name: str, project: MakeProject) -> None:
    assert list(project("workflows:\n" + hello(name)).load()) == [name]


def test_one_cycle_is_told_for_a_tangle(project: MakeProject) -> None:
    names = [f"w{i}" for i in range(30)]
    text = "workflows:\n" + "".join(
        hello(name, f"    depends-on: [{', '.join(other for other in names if other != name)}]\n") for name in names
    )

    errors = project(text).wrong("w0")

    assert 1 <= len(errors) <= 30
    assert all("depend on each other" in error.message for error in errors)


def test_a_cycle_through_a_tag_is_no_cycle(project: MakeProject) -> None:
    text = "workflows:\n" + hello("a", "    depends-on: [b]\n") + hello("b", "    depends-on: ['a:latest', 'b:best']\n")

    assert len(project(text).load()) == 2


def test_more_errors_than_anyone_reads_are_counted(project: MakeProject) -> None:
    text = "workflows:\n" + "".join(f"  - {{name: w{i}, provider: bash}}\n" for i in range(700))

    diagnostics: list[Diagnostic] = project(text).wrong()

    assert len(diagnostics) == 501
    assert diagnostics[-1].message == "and 200 more errors"


def test_braces_without_their_dollar_sign_are_a_warning_for_names_of_variables_only(project: MakeProject) -> None:
    commands = [
        "echo {{ seed }} {{seed}} ${{ seed }}",
        "docker ps --format '{{.Names}}'",
        "echo {{ other }}",
        "x # {{ seed }}",
    ]
    text = "workflows:\n  - name: train\n    provider: bash\n    # {{ seed }}\n    commands:\n"
    text += "".join(f"      - {command}\n" for command in commands)

    warnings = project(text, "variables: {global: {seed: 1}}").load().warnings

    assert [(found.line, found.column, found.message) for found in warnings] == [
        (6, 14, "`{{ seed }}` is no expression: it stays as it is")
    ]
    assert warnings[0].hint == "write `${{ seed }}`"
