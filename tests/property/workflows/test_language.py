"""Declared variables, conditions, policies, secrets: no mutation and no words fail but with a diagnostic."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from dstack.domain import rules
from dstack.providers import registry
from dstack.sdk.scalars import parse_scalar
from dstack.workflows import Invalid, RunPlan, load, plan
from dstack.workflows.declarations import TYPES, Declaration, WrongValue

WORKFLOWS = """\
workflows:
- name: fetch
  provider: curl
  url: ${{ url }}
  output: data/x
  artifacts: [data]
  if: ${{ fresh }} and mode != 'quick'
  retry: {on: [lost, timeout], max: 2, backoff: 1m}
- name: train
  provider: python
  script: train.py
  depends-on: [fetch]
  if: not failed() and (epochs == 10 or ${{ mode }} == 'full')
  env: [TOKEN, "KEY=a ${{ secrets.KEY }}", A=b]
  before_run: ["login '${{ secrets.KEY }}' \\"${{ secrets.OTHER }}\\""]
  timeout: ${{ limit }}
  continue-on-failure: ${{ fresh }}
- name: report
  provider: bash
  commands: ["echo ${{ run.args }} ${{ secrets.KEY }}"]
  depends-on: [train, fetch]
  if: always()
  fail-fast: true
"""
VARIABLES = """\
variables:
  global:
    mode: {default: full, choices: [full, quick], help: How much.}
    fresh: {type: bool, default: yes}
    url: {type: str}
    limit: 90s
  train:
    epochs: {default: 10, type: int, min: 1, max: 100}
    lr: {type: float, default: 1e-3}
    data: {type: path, default: ./data}
    mode: quick
"""
FILES = {".dstack/workflows.yaml": WORKFLOWS, ".dstack/variables.yaml": VARIABLES}
PIECES = [
    "success()", "failed()", "always()", "${{", "}}", "secrets.KEY", "secrets.", "and", "or", "not", "==", "!=", "(",
    ")", "{", "}", "[", "]", ",", ": ", "'", '"', "\n", " ", "#", "\\", "$'", "<<EOF", "`", "$(", "default", "type",
    "int", "choices", "min: ", "max: ", "-1", "3.10", "~", "true", "\0", "é", "epochs", "if: ", "retry: ",
    "timeout: ", "&a ", "*a",
]  # fmt: skip
OPTIONS = [
    "--", "--mode", "full", "quick", "--mode=x", "--fresh", "no", "--fresh=", "--train.fresh", "--url", "--url=",
    "--epochs", "10", "--epochs=0", "--train.epochs=1e1", "--lr", "nan", "--data=", "--limit", "1h", "--global.mode",
    "--report.mode", "-e", "TOKEN", "TOKEN=x", "-eB=", "-p", "-p3", "--ports", "--deps", "--dep=fetch", "--nnodes",
    "--logdir", "x", "--epoch",
]  # fmt: skip
words = st.lists(st.sampled_from(OPTIONS) | st.text(max_size=5), max_size=8)


def plans_or_says(files: dict[str, str], name: str, args: list[str]) -> RunPlan | None:
    try:
        planned = plan(
            load(files, registry()),
            name,
            args,
            run_name="goose-1",
            read_text=lambda path: None,
            resolve_tag=lambda workflow, tag: [],
            newest_done=lambda workflow: [],
            secrets=["KEY", "OTHER"],
            values=["TOKEN"],
        )
    except Invalid as error:
        found = error.diagnostics
    else:
        for step in planned.steps:
            rules.verdict(step.policy.rule, over=True, need_failed=False, need_skipped=False)
            assert all(isinstance(value, str) for job in step.jobs for value in job.environment.values())
        return planned
    assert any(diagnostic.severity == "error" for diagnostic in found)
    for diagnostic in found:
        assert diagnostic.message
        if diagnostic.file is not None:
            assert diagnostic.line is not None
            assert 1 <= diagnostic.line <= files[diagnostic.file].count("\n") + 2
    return None


def test_the_files_that_are_mutated_plan() -> None:
    planned = plans_or_says(FILES, "report", ["--url", "http://x/y", "--train.mode", "full"])

    assert planned is not None
    assert [step.name for step in planned.steps] == ["fetch", "train", "report"]


@settings(max_examples=300)
@given(st.data())
def test_a_mutated_file_plans_or_gives_a_place(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(FILES)))
    text = FILES[name]
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 10)))
        text = text[:start] + data.draw(st.sampled_from(PIECES) | st.just("")) + text[end:]

    plans_or_says({**FILES, name: text}, "report", ["--url", "http://x/y"])


@settings(max_examples=300)
@given(st.sampled_from(["fetch", "train", "report", "bash", "torchrun", "curl"]), words)
def test_any_words_plan_or_say_what_is_wrong(name: str, args: list[str]) -> None:
    plans_or_says(FILES, name, args)


@given(words)
def test_words_are_read_the_same_way_twice_and_in_order(args: list[str]) -> None:
    """The last of two values of one variable stands, wherever other words are."""
    first = plans_or_says(FILES, "train", ["--url", "u", "--mode", "quick", *args, "--epochs", "7"])

    if first is not None and "--" not in args:
        assert first.steps[-1].variables["epochs"] == (7, "command line")
        assert first == plans_or_says(FILES, "train", ["--url", "u", "--mode", "quick", *args, "--epochs", "7"])


scalars = st.text(max_size=6) | st.integers().map(str) | st.floats().map(str) | st.sampled_from(["", "yes", "3.10"])


@given(st.sampled_from([None, *TYPES]), scalars, st.none() | st.integers(-5, 5), st.none() | st.integers(-5, 5))
def test_a_declaration_takes_what_it_made_again(kind: str | None, text: str, low: int | None, high: int | None) -> None:
    """What was read once is read as the same value; and no value makes reading fail in another way."""
    declaration = Declaration(kind, (), low, high)  # pyright: ignore[reportArgumentType] -- of TYPES
    try:
        value = declaration.read(parse_scalar(text) if kind is None else text)
    except WrongValue as error:
        assert str(error)  # noqa: PT017 -- either may happen
        return
    assert declaration.read(value) == value
    if value is not None and (low, high) != (None, None) and not isinstance(value, str | bool):
        assert low is None or value >= low
        assert high is None or value <= high
