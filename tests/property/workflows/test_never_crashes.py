"""No text, mutation or command line makes loading and planning fail in any way but a diagnostic with a place."""

from __future__ import annotations

from typing import Any

import msgspec
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dstack.providers import registry
from dstack.workflows import Invalid, ReusedInput, RunPlan, UnknownTag, load, plan, render

WORKFLOWS = """\
x-policy: &policy
  timeout: 1h30m
  retry: {on: [lost, oom], max: "${{ tries }}", backoff: 30s}
include: more.yaml
code: {exclude: ["*.bin"]}
workflows:
  - name: prepare
    provider: python
    script: prepare.py --rows ${{ rows }}
    artifacts: [./data/]
    requirements: requirements.txt
    environment: {A: b, C: "${{ seed }}", KEY: "x-${{ secrets.KEY }}"}
    <<: *policy
  - name: train
    help: Trains it
    provider: python
    file: train.py
    version: 3.10
    args: [--lr, "${{ lr }}", "$${{ literal }}"]
    depends-on:
      - prepare
      - prepare:latest
    deps: [{workflow: prepare}, {tag: best}]
    resources:
      cpu: {count: 2}
      memory: 1GB
      gpu: ${{ gpu }}
      interruptible: no
  - &base
    name: evaluate
    provider: bash
    before_run: export A=1
    commands: |
      echo ${{ run.name }} ${{ run.args }}
      echo done
    env: [A=1, B]
    depends-on: [train]
    if: success() and seed == 2 or not flag
    fail-fast: true
    continue_on_failure: yes
  - <<: *base
    name: again
    working_dir: src
    resources: {v100/gpu: 1}
"""
VARIABLES = """\
variables:
  global:
    seed: {default: 2, type: int, min: 1, max: 9, help: Where to begin}
    gpu: 0
    flag: {type: bool, default: no}
    tries: {choices: [1, 2, 3], default: 2}
    mode: {choices: [quick, thorough], default: quick}
  prepare: {rows: 10}
  train: {lr: 3.10, batch-size: 8}
"""
MORE = "workflows: [{name: more, provider: bash, commands: [echo]}]\n"
FILES = {".dstack/workflows.yaml": WORKFLOWS, ".dstack/variables.yaml": VARIABLES, "more.yaml": MORE}

PIECES = [
    "workflows:", "variables:", "\n", "\n  ", "\n    ", "- ", "name: ", "a", "train", "provider: ", "bash", "python",
    "commands: ", "[", "]", "{", "}", ",", ":", "&x ", "*x", "<<: ", "|", ">", "'", '"', "${{", "}}", "$${{", " ", "\t",
    "!!str ", "!!python/object ", "---", "...", "#", "?", "%", "@", "`", "~", "3.10", "true", "depends-on: ", "deps: ",
    "artifacts: ", "resources: ", "include: ", "x-a: ", "gpu: ", "cpu: ", "script: ", "/", "..", "=", "\\", "\r",
    "\x85", "\u2028", "\0", "\ud800", "\ufeff", "é", "\U0001f600", "-1", "1e9", "0", "env: ", "args: ",
    "run.args", "seed",
    "global", "if: ", "success()", "failed(", " and ", " or ", "not ", "==", "secrets.KEY", "default: ", "type: ",
    "choices: ", "timeout: ", "retry: ", "1h30m", "*policy", "\u00a0", "“",
]  # fmt: skip
pieces = st.lists(st.sampled_from(PIECES), max_size=60).map("".join)

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 10**12)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(["${{ seed }}", "${{ gone }}", "a${{ seed }}b", "prepare", ":x", "a:b", "16GB", "../x", "$HOME"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=5)
            | st.sampled_from(
                ["count", "name", "tag", "workflow", "workflows", "repo", "include", "mount", "path", "on", "max"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
KEYS = [
    "name", "provider", "help", "depends-on", "deps", "artifacts", "resources", "environment", "env", "working_dir",
    "version", "python", "requirements", "before_run", "setup", "commands", "script", "file", "python_script", "args",
    "if", "timeout", "retry", "fail-fast", "continue-on-failure", "code", "ports", "url", "output", "nodes", "image",
    "runs", "target", "app", "uvicorn", "logdir",
]  # fmt: skip

REQUIRED: dict[str, dict[str, Any]] = {
    "python": {"script": "a.py"}, "torchrun": {"script": "a.py"}, "gradio": {"file": "a.py"},
    "curl": {"url": "u", "output": "a/x", "artifacts": ["a"]}, "docker": {"image": "i"}, "streamlit": {"target": "a"},
    "fastapi": {"app": "a"}, "tensorboard": {"runs": ["goose-1"]},
}  # fmt: skip


def artifact(workflow: str) -> list[ReusedInput]:
    return [ReusedInput("data", b"m", b"c", "goose-1", workflow, workflow, None)]


def resolve_tag(workflow: str | None, tag: str) -> list[ReusedInput]:
    if tag in ("latest", "best"):
        return artifact(workflow or "prepare")
    raise UnknownTag(["latest"])


def planned(files: dict[str, str], name: str, args: list[str]) -> RunPlan:
    return plan(
        load(files, registry()),
        name,
        args,
        run_name="goose-1",
        read_text=lambda path: "" if path == "requirements.txt" else None,
        resolve_tag=resolve_tag,
        newest_done=artifact,
    )


def plans_or_says(files: dict[str, str], name: str = "again", args: tuple[str, ...] = ()) -> RunPlan | None:
    """The plan; or None after checking that what was said can be read and shown."""
    try:
        return planned(files, name, list(args))
    except Invalid as error:
        diagnostics = error.diagnostics
    assert any(diagnostic.severity == "error" for diagnostic in diagnostics)
    for diagnostic in diagnostics:
        assert diagnostic.message
        assert render(diagnostic)
        msgspec.json.encode(diagnostic)
        if diagnostic.file is not None:
            assert diagnostic.line is not None
            assert diagnostic.column is not None
            assert 1 <= diagnostic.line <= len(files[diagnostic.file]) + 1
            assert 1 <= diagnostic.column <= len(files[diagnostic.file]) + 1
    return None


def test_the_files_that_are_mutated_plan() -> None:
    assert len(planned(FILES, "again", []).steps) == 3


@given(st.text())
@example("\ud800")
def test_any_text_is_read_or_refused(text: str) -> None:
    plans_or_says({".dstack/workflows.yaml": text})
    plans_or_says({**FILES, ".dstack/variables.yaml": text})


@given(pieces, pieces)
def test_any_pieces_of_yaml_are_read_or_refused(workflows: str, variables: str) -> None:
    plans_or_says({".dstack/workflows.yaml": workflows, ".dstack/variables.yaml": variables})
    plans_or_says({".dstack/workflows.yaml": f"workflows:\n  - name: again\n    {workflows}"})


@settings(max_examples=300)
@given(st.data())
def test_a_mutated_file_plans_or_gives_a_place(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(FILES)))
    text = FILES[name]
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 12)))
        text = text[:start] + data.draw(st.sampled_from(PIECES) | st.just("")) + text[end:]

    plans_or_says({**FILES, name: text})


@settings(max_examples=300)
@given(st.sampled_from(list(registry())), st.dictionaries(st.sampled_from(KEYS), values, max_size=5), values)
def test_any_value_of_any_key_plans_or_gives_a_place(provider: str, keys: dict[str, Any], value: Any) -> None:
    entry = {"name": "again", "provider": provider, "commands": ["echo"], **keys}
    if provider not in ("bash", "docker"):
        entry = {**REQUIRED.get(provider, {}), **entry}
        entry = {key: value for key, value in entry.items() if key != "commands"}
    workflows = yaml.safe_dump({"workflows": [entry]}, sort_keys=False)
    variables = yaml.safe_dump({"variables": {"global": {"seed": value}}})

    plans_or_says({".dstack/workflows.yaml": workflows, ".dstack/variables.yaml": variables})


OPTIONS = [
    "--", "-", "---", "-x", "--seed", "--seed=3", "--rows", "--prepare.rows", "--train.x=1", "--global.gpu", "--gpu",
    "--gpu=x", "-e", "-eA", "A=b", "-a", "data", "/data", "-i", "--interruptible=perhaps", "--cpu", "--memory", "16GB",
    "--gpu-name", "-r", "requirements.txt", "--working-dir", "--shm-size", "--lr=", "--batch_size", "8", "--sed",
    "--.x", "--x.", "--dep", ":best", "--depends-on", "again", "user/repo/x",
]  # fmt: skip
words = st.lists(st.sampled_from(OPTIONS) | st.text(max_size=6), max_size=8).map(tuple)


@settings(max_examples=300)
@given(st.sampled_from(["prepare", "train", "evaluate", "again", "nothing", *registry()]), words)
def test_any_words_plan_or_say_what_is_wrong(name: str, args: tuple[str, ...]) -> None:
    plans_or_says(FILES, name, args)


@given(words, st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)))
def test_everything_after_two_dashes_reaches_the_program(args: tuple[str, ...], rest: list[str]) -> None:
    result = plans_or_says(FILES, "prepare", (*(word for word in args if word != "--"), "--", *rest))

    if result is not None and rest:
        assert list(result.steps[-1].jobs[0].argv[-len(rest) :]) == rest
