"""The JSON Schemas accept what the loader accepts, and refuse mistakes that an editor can see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from dstack.providers import registry
from dstack.workflows import Invalid, load
from dstack.workflows.schema import providers_schema, variables_schema, workflows_schema
from tests.support.yamls import data_of, repositories

SCHEMAS = {
    "workflows": workflows_schema(registry()),
    "variables": variables_schema(),
    "providers": providers_schema(),
}
ONE = {".dstack/workflows.yaml": "workflows: [{name: a, provider: bash, commands: [x]}]"}
VALIDATORS = {name: Draft202012Validator(schema) for name, schema in SCHEMAS.items()}
REPOSITORIES = dict(repositories())


def errors(kind: str, data: Any) -> list[str]:
    return [f"{error.json_path}: {error.message[:300]}" for error in VALIDATORS[kind].iter_errors(data)]


@pytest.mark.parametrize("kind", SCHEMAS)
def test_each_is_a_schema(kind: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS[kind])


def is_loaded(texts: Mapping[str, str]) -> bool:
    try:
        load(texts if any("workflows" in path for path in texts) else {**texts, **ONE}, registry())
    except Invalid:
        return False
    return True


LOADED = {where: texts for where, texts in REPOSITORIES.items() if is_loaded(texts)}


@pytest.mark.parametrize("where", LOADED)
def test_every_file_of_the_project_is_accepted(where: str) -> None:
    for path, text in LOADED[where].items():
        data = data_of(text)
        kinds = data.keys() & {"workflows", "include", "variables"} if isinstance(data, dict) else ()
        if kinds:
            assert errors("variables" if "variables" in kinds else "workflows", data) == [], path


def test_there_are_files_to_hold_against_it() -> None:
    assert len(LOADED) >= 4
    assert len(LOADED) > 0.8 * len(REPOSITORIES)


ENTRY = "{name: a, provider: bash, commands: [x]"


@pytest.mark.parametrize(
    "text",
    [
        "workflows:",
        "workflows: []",
        "include: other.yaml",
        "{x-base: [1], workflows: []}",
        "workflows: [{name: a, commands: [x]}]",
        "workflows: [{name: a, image: ubuntu, commands: [x]}]",
        "workflows: [{name: a, provider: python@main, anything: x}]",
        "workflows: [{name: a, provider: {repo: 'https://example.org/x', name: y}, anything: x}]",
        "workflows: [{name: a, provider: 'owner/repo@v1:x', anything: x}]",
        "workflows: [{name: a, provider: '${{ p }}', anything: x}]",
        "workflows: [{name: 7, provider: bash, commands: x}]",
        "workflows: [{name: a, provider: python, script: a.py, version: 3.10, args: [1, true, '']}]",
        "workflows: [{name: a, provider: python, python_script: a.py}]",
        f"workflows: [{ENTRY}, env: [A=b, C]}}]",
        f"workflows: [{ENTRY}, env: {{A: 1, B: true, C: }}}}]",
        f"workflows: [{ENTRY}, resources: {{cpu: '2', memory: 16GB, gpu: '${{{{ g }}}}', V100/gpu: 2}}}}]",
        f"workflows: [{ENTRY}, resources: {{memory: 0, gpu: {{count: 1, name: K80, memory: 8 GiB}}}}}}]",
        f"workflows: [{ENTRY}, resources: {{interruptible: Yes}}}}]",
        f"workflows: [{ENTRY}, resources: '${{{{ all }}}}'}}]",
        f"workflows: [{ENTRY}, continue-on-failure: true}}]",
        f"workflows: [{ENTRY}, continue_on_failure: true, fail_fast: no}}]",
        f"workflows: [{ENTRY}, timeout: 1h30m, retry: {{on: [lost, oom], max: 2, backoff: 30s}}}}]",
        f"workflows: [{ENTRY}, timeout: 90, retry: 3}}]",
        f"workflows: [{ENTRY}, retry: {{on: failure}}}}]",
        f"workflows: [{ENTRY}, if: always()}}]",
        f"workflows: [{ENTRY}, depends-on: [b, 'c:latest', ':v1', {{workflow: d}}, {{tag: e, mount: true}}]}}]",
        f"workflows: [{ENTRY}, artifacts: [out, ./x/, {{path: y, mount: true}}]}}]",
        f"workflows: [{ENTRY}, artifacts: '${{{{ dir }}}}/out'}}]",
        f"workflows: [{ENTRY}, code: {{include: data.csv, exclude: ['*.bin']}}}}]",
    ],
)
def test_what_the_loader_reads_is_accepted(text: str) -> None:
    assert errors("workflows", data_of(text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "workflow: []",
        "{workflows: [], jobs: []}",
        "workflows: {name: a}",
        "workflows: [train]",
        "workflows: [{provider: bash, commands: [x]}]",
        "workflows: [{name: global, provider: bash, commands: [x]}]",
        "workflows: [{name: 'a b', provider: bash, commands: [x]}]",
        "workflows: [{name: a}]",
        "workflows: [{name: a, provider: bsh, commands: [x]}]",
        "workflows: [{name: a, provider: [bash], commands: [x]}]",
        "workflows: [{name: a, provider: bash}]",
        "workflows: [{name: a, provider: bash, commands: []}]",
        "workflows: [{name: a, provider: bash, comands: [x]}]",
        "workflows: [{name: a, provider: python}]",
        "workflows: [{name: a, provider: python, commands: [x]}]",
        "workflows: [{name: a, provider: python, script: a.py, version: 2.7x}]",
        "workflows: [{name: a, provider: python, script: '  '}]",
        f"workflows: [{ENTRY}, resources: {{cpu: two}}}}]",
        f"workflows: [{ENTRY}, resources: {{cpu: -1}}}}]",
        f"workflows: [{ENTRY}, resources: {{memory: 16}}}}]",
        f"workflows: [{ENTRY}, resources: {{memory: 8XB}}}}]",
        f"workflows: [{ENTRY}, resources: {{gpus: 1}}}}]",
        f"workflows: [{ENTRY}, resources: {{V100/gpu: many}}}}]",
        f"workflows: [{ENTRY}, resources: {{interruptible: maybe}}}}]",
        f"workflows: [{ENTRY}, env: {{1A: b}}}}]",
        f"workflows: [{ENTRY}, env: [A-B=c]}}]",
        f"workflows: [{ENTRY}, artifacts: [/data]}}]",
        f"workflows: [{ENTRY}, artifacts: [../data]}}]",
        f"workflows: [{ENTRY}, artifacts: [./]}}]",
        f"workflows: [{ENTRY}, working_dir: a/../../b}}]",
        f"workflows: [{ENTRY}, timeout: soon}}]",
        f"workflows: [{ENTRY}, retry: {{on: bad-luck}}}}]",
        f"workflows: [{ENTRY}, retry: {{times: 3}}}}]",
        f"workflows: [{ENTRY}, depends-on: [[a]]}}]",
        f"workflows: [{ENTRY}, depends-on: {{name: a}}}}]",
        f"workflows: [{ENTRY}, code: {{only: x}}}}]",
    ],
)
def test_a_mistake_is_refused(text: str) -> None:
    assert errors("workflows", data_of(text))


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("variables:", True),
        ("variables: {global: {seed: 2}, train: {batch-size: 64, name: x, flag: true, none: }}", True),
        ("variables: {global: {lr: {default: 0.1, type: float, min: 0, max: 1, help: rate}}}", True),
        ("variables: {global: {mode: {choices: [a, b]}}, train: }", True),
        ("variable: {}", False),
        ("variables: [seed]", False),
        ("variables: {global: {2fast: 1}}", False),
        ("variables: {global: {seed: [1]}}", False),
        ("variables: {global: {seed: {type: number}}}", False),
        ("variables: {global: {seed: {defualt: 1}}}", False),
    ],
)
def test_variables(text: str, right: bool) -> None:
    assert (errors("variables", data_of(text)) == []) == right


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("providers: [{name: curl, image: 'python:3.9', commands: [pip install x, python main.py]}]", True),
        ("providers: [{name: curl, commands: python main.py}]", True),
        ("providers:", True),
        ("providers: [{name: curl}]", False),
        ("providers: [{name: curl, commands: [], image: x}]", False),
        ("providers: [{name: curl, command: [x]}]", False),
        ("providers: {curl: {commands: [x]}}", False),
    ],
)
def test_providers(text: str, right: bool) -> None:
    assert (errors("providers", data_of(text)) == []) == right


def test_every_key_is_described() -> None:
    definitions: dict[str, Any] = SCHEMAS["workflows"]["$defs"]
    silent = [
        f"{name}: {key}"
        for name, schema in definitions.items()
        if name not in ("workflow", "provider")
        for key, value in schema.get("properties", {}).items()
        if "description" not in value and "$ref" not in value
    ]
    assert silent == []
    assert len(definitions) > 15
