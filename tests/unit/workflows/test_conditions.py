"""`if:`: what is read in a workflow file, and where a wrong one is pointed at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., Any]


def workflow(condition: str, more: str = "") -> str:
    return f"workflows:\n- name: train\n  provider: bash\n  commands: [true]\n  if: {condition}\n{more}"


@pytest.mark.parametrize(
    ("written", "column", "message"),
    [
        ("success() && x", 17, "`&& x` cannot be read in a condition"),
        ('"success() && x"', 18, "`&& x` cannot be read in a condition"),
        ("${{ a + b }}", 13, "`+ b }}` cannot be read in a condition"),
        (">-\n    a ==\n    b b", 7, "`b` is not expected here"),
        ("failure()", 7, "there is no function `failure()`"),
    ],
)
def test_a_wrong_condition_is_pointed_at(written: str, column: int, message: str, project: Make) -> None:
    (error,) = project(workflow(written)).wrong()

    assert (error.line, error.column) == (5, column)
    assert error.message == message


def test_only_the_if_of_a_workflow_is_a_condition(project: Make) -> None:
    text = "workflows:\n- {name: train, provider: bash, commands: [true], environment: {if: '${{ a b }}'}}\n"

    (error,) = project(text).wrong()

    assert "`a b` is not a name" in error.message


TWO = """\
workflows:
- {name: prepare, provider: bash, commands: [true]}
- name: train
  provider: bash
  commands: [true]
  depends-on: [prepare]
"""


def step(condition: str, variables: str, make: Make, *args: str) -> Any:
    example = make(f"{TWO}  if: {condition}\n", f"variables: {{global: {{{variables}}}}}")
    return example.steps("train", *args)["train"]


@pytest.mark.parametrize(
    ("condition", "variables", "rule"),
    [
        ("success()", "", "success()"),
        ("failed()", "", "failed()"),
        ("${{ always() }}", "", "always()"),
        ("true", "", "success()"),
        ("false", "", "false"),
        ("mode == 'full'", "mode: full", "success()"),
        ("${{ mode }} == 'full'", "mode: quick", "false"),
        ("mode != 'full'", "mode: quick", "success()"),
        ("always() and mode == 'full'", "mode: full", "always()"),
        ("always() and mode == 'full'", "mode: quick", "false"),
        ("failed() or mode == 'full'", "mode: full", "true"),
        ("failed() or mode == 'full'", "mode: quick", "failed()"),
        ("not failed() and not (success() and flag)", "flag: true", "not failed() and not success()"),
        ("flag", "flag: true", "success()"),
        ("flag", "flag: false", "false"),
        ("flag", "flag: 'no'", "false"),
        ("flag", "flag: On", "success()"),
        ("gpus", "gpus: 0", "false"),
        ("gpus", "gpus: 2", "success()"),
        ("from", "from: ~", "false"),
        ("from", "from: ''", "false"),
        ("version == '3.10'", "version: 3.10", "success()"),
        ("version == 3.1", "version: 3.10", "success()"),
        ("version == '3.1'", "version: 3.10", "false"),
        ("n == 2.0", "n: 2", "success()"),
        ("flag == 'true'", "flag: true", "success()"),
        ("from == ''", "from: ~", "success()"),
        ("run.name == 'goose-1'", "", "success()"),
        ("(a == b) == (c == d)", "a: 1, b: 1, c: x, d: x", "success()"),
        ("batch_size == 8", "batch-size: 8", "success()"),
    ],
)
def test_values_are_put_into_the_rule(condition: str, variables: str, rule: str, project: Make) -> None:
    planned = step(f'"{condition}"', variables, project)

    assert planned.policy.rule == rule
    assert planned.policy.condition == condition
    assert bool(planned.skipped) == (rule == "false")


def test_a_value_of_the_command_line_decides(project: Make) -> None:
    assert step("mode == 'full'", "mode: quick", project, "--mode", "full").policy.rule == "success()"


def test_a_name_that_only_a_condition_uses_is_an_option_of_the_run(project: Make) -> None:
    """`--mode` reaches who uses it, also where no file declares it."""
    assert step("mode == 'full'", "", project, "--mode", "full").policy.rule == "success()"


def test_a_condition_without_a_value_is_pointed_at(project: Make) -> None:
    (error,) = project(f"{TWO}  if: success() and mode == 'full'\n").wrong("train")

    assert (error.line, error.column, error.message) == (7, 21, "the variable `mode` has no value")


@pytest.mark.parametrize(
    ("condition", "column", "message", "hint"),
    [
        ("mode", 7, "`mode` is `full`, which is neither true nor false", "compare it: `mode == 'full'`"),
        ("success() and not mode", 25, "`mode` is `full`, which is neither true nor false", ""),
        ("\"'full'\"", 8, "`full` is neither true nor false", ""),
        ("secrets.KEY == 'x'", 7, "the secret `KEY` cannot stand in `if`: it would be stored and shown", ""),
    ],
)
def test_what_is_neither_true_nor_false(condition: str, column: int, message: str, hint: str, project: Make) -> None:
    (error,) = project(f"{TWO}  if: {condition}\n", "variables: {global: {mode: full}}").wrong("train")

    assert (error.line, error.column, error.message) == (7, column, message)
    assert hint in error.hint


def test_an_alias_may_bring_a_condition(project: Make) -> None:
    text = "x-when: &when mode == 'full'\n" + TWO + "  if: *when\n"

    assert project(text).steps("train", "--mode", "quick")["train"].policy.rule == "false"


# --- what is skipped ---------------------------------------------------------------------------------------------

GRAPH = """\
workflows:
- {name: fetch, provider: bash, commands: [true], if: fresh}
- {name: prepare, provider: bash, commands: [true], depends-on: [fetch]}
- {name: note, provider: bash, commands: [true], depends-on: [fetch], if: always()}
- {name: mend, provider: bash, commands: [true], if: failed()}
- {name: other, provider: bash, commands: [true]}
- {name: late, provider: bash, commands: [true], depends-on: [other, prepare]}
- {name: spare, provider: bash, commands: [true], depends-on: [prepare], if: not failed()}
- {name: all, provider: bash, commands: [true], depends-on: [note, late, spare, mend], if: always()}
"""


def test_what_will_not_run_is_known_with_its_reason(project: Make) -> None:
    steps = project(GRAPH).steps("all", "--fresh", "no")

    assert {name: step.skipped for name, step in steps.items()} == {
        "fetch": "its condition is false: `fresh`",
        "prepare": "`fetch`, which it depends on, will be skipped",
        "note": "",
        "mend": "its condition is false: `failed()`",
        "other": "",
        "late": "`prepare`, which it depends on, will be skipped",
        "spare": "",
        "all": "",
    }
    assert not project(GRAPH).steps("all", "--fresh", "yes")["late"].skipped


def test_a_root_that_will_not_run_is_a_warning(project: Make) -> None:
    (warning,) = project(f"{TWO}  if: false\n").plan("train").warnings

    assert (warning.line, warning.message) == (7, "`train` will be skipped: its condition is false: `false`")


def test_what_will_not_run_needs_no_inputs(project: Make) -> None:
    text = "workflows:\n- {name: train, provider: bash, commands: [true], deps: ':${{ from }}', if: from}\n"

    (step,) = project(text, "variables: {global: {from: no}}").plan("train").steps

    assert (step.inputs, step.skipped) == ((), "its condition is false: `from`")


# --- the other policies ------------------------------------------------------------------------------------------


def test_policies_are_planned(project: Make) -> None:
    keys = "continue-on-failure: true, timeout: 1h30m, retry: {on: [lost, oom], max: 2, backoff: 30s}"
    (step,) = project(f"workflows:\n- {{name: train, provider: bash, commands: [a], {keys}}}\n").plan("train").steps

    policy = step.policy
    assert (policy.continue_on_failure, policy.fail_fast, policy.timeout) == (True, False, 5400)
    assert set(policy.retry_on) == {"runner-lost", "preempted", "unknown-exit", "oom"}
    assert (policy.retry_max, policy.backoff) == (2, 30)


def test_a_step_with_one_job_has_nothing_to_stop(project: Make) -> None:
    text = "workflows:\n- name: train\n  provider: bash\n  commands: [a]\n  fail-fast: true\n"
    plan = project(text).plan("train")

    assert plan.steps[0].policy.fail_fast
    (warning,) = plan.warnings
    assert (warning.line, warning.message) == (5, "`fail-fast` stops the other jobs of a step, and `train` has one")
