"""Names of workflows and variables, found without a YAML parser."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dstack.client.names import declares, variable_names, workflow_names

WORKFLOWS = """\
# The example's workflows
---
workflows:
  - name: prepare   # makes data/
    help: "Makes the data: all of it."
    provider: bash
    resources:
      gpu:
        name: V100
    commands:
      - name: not-a-workflow
  - provider: python
    name: 'train'
    artifacts:
    - name
  - {name: test-1, provider: bash, resources: {name: x}, help: Short}
  -   name: wide
      provider: bash
"""
FLUSH = "workflows:\n- name: a\n  provider: bash\n- name: b\n"
VARIABLES = """\
variables:
  global:
    epochs: 3
    rate:
      default: 0.1
      type: float
  train: {seed: 1, path: "a, b: c"}
  # nothing yet
  test:
other:
  x:
    y: 1
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / ".dstack" / "workflows").mkdir(parents=True)
    return tmp_path


def test_workflows_of_all_files_with_their_help(root: Path) -> None:
    (root / ".dstack" / "workflows.yaml").write_text(WORKFLOWS)
    (root / ".dstack" / "workflows" / "more.yml").write_text(FLUSH)
    assert workflow_names(str(root)) == {
        "prepare": "Makes the data: all of it.", "train": "", "test-1": "Short", "wide": "", "a": "", "b": "",
    }  # fmt: skip
    expected = [item["name"] for text in (WORKFLOWS, FLUSH) for item in yaml.safe_load(text)["workflows"]]
    assert list(workflow_names(str(root))) == expected


def test_variables_by_section(root: Path) -> None:
    (root / ".dstack" / "variables.yaml").write_text(VARIABLES)
    assert variable_names(str(root)) == {"global": ["epochs", "rate"], "train": ["seed", "path"]}


@pytest.mark.parametrize("text", ["", "workflows:", "- ", "\t", "workflows: [", "{", "a: {b", "- {name", ":\n- :", "-"])
def test_what_is_no_such_file_has_no_names(root: Path, text: str) -> None:
    (root / ".dstack" / "workflows.yaml").write_text(text)
    (root / ".dstack" / "variables.yaml").write_text(text)
    assert (workflow_names(str(root)), variable_names(str(root))) == ({}, {})


def test_nothing_is_there(tmp_path: Path) -> None:
    assert (workflow_names(str(tmp_path)), variable_names(str(tmp_path))) == ({}, {})


@pytest.mark.parametrize(
    "text",
    [
        "variables: {global: {yes: 2}}",
        "variables: {e: {\n  yes: 2}}",
        "variables:\n  e:\n    ? yes\n    : 3",
        "variables:\n  e:\n    yes: 3",
        'variables: {e: {"yes": 1}}',
    ],
)
def test_a_variable_is_known_in_any_style(tmp_path: Path, text: str) -> None:
    (tmp_path / ".dstack").mkdir()
    (tmp_path / ".dstack" / "variables.yaml").write_text(text)
    assert declares(str(tmp_path), ["yes", "env-file"]) == {"yes"}


@pytest.mark.parametrize("text", ["variables: {e: {x: yes}}", "variables: {e: {yes: 1", "yes: 1", "- yes: 1", ""])
def test_what_is_no_variable(tmp_path: Path, text: str) -> None:
    (tmp_path / ".dstack").mkdir()
    (tmp_path / ".dstack" / "variables.yaml").write_text(text)
    assert declares(str(tmp_path), ["yes"]) == set()
