"""Declared variables: what the file may say of values, and what is said of values that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., Any]
WORKFLOWS = (
    "workflows:\n- {name: train, provider: python, script: train.py}\n- {name: other, provider: bash, commands: [a]}\n"
)


def declared(declaration: str, make: Make, section: str = "train", more: str = "") -> Any:
    return make(WORKFLOWS, f"variables:\n  {section}:\n    x: {declaration}\n{more}", files={"train.py"})


def value(example: Any, *args: str) -> tuple[object, str | None]:
    """The variable as providers see it, and as the job does."""
    (step,) = example.plan("train", *args).steps
    return step.variables["x"][0], step.jobs[0].environment.get("X")


@pytest.mark.parametrize(
    ("declaration", "typed", "text"),
    [
        ("{default: 10, type: int}", 10, "10"),
        ('{default: "10", type: int}', 10, "10"),
        ("{default: 0x10, type: int}", "0x10", "0x10"),
        ("{default: 3, type: float}", "3", "3"),
        ("{default: 1e-3, type: float}", "1e-3", "1e-3"),
        ("{default: yes, type: bool}", True, "true"),
        ("{default: 0, type: bool}", False, "false"),
        ("{default: 3.10, type: str}", "3.10", "3.10"),
        ("{default: true, type: str}", "true", "true"),
        ("{default: data/train, type: path}", "data/train", "data/train"),
        ("{default: ~, type: int}", None, ""),
        ("{default: adam, choices: [sgd, adam]}", "adam", "adam"),
        ("{default: 2, choices: [1, 2.0]}", 2, "2"),
        ("{default: 0.5, min: 0, max: 1}", 0.5, "0.5"),
        ("{default: 10, help: How many.}", 10, "10"),
    ],
)
def test_a_default(declaration: str, typed: object, text: str, project: Make) -> None:
    assert value(declared(declaration, project)) == (typed, text)


@pytest.mark.parametrize(
    ("declaration", "column", "message"),
    [
        ("{default: ten, type: int}", 18, "the default of `x` must be a whole number, not `ten`"),
        ("{default: 1.5, type: int}", 18, "the default of `x` must be a whole number, not `1.5`"),
        ("{default: true, type: int}", 18, "the default of `x` must be a whole number, not `true`"),
        ("{default: much, type: float}", 18, "the default of `x` must be a number, not `much`"),
        ("{default: maybe, type: bool}", 18, "the default of `x` must be true or false, not `maybe`"),
        ("{default: '', type: path}", 18, "the default of `x` must be the path of a file or folder"),
        ("{default: [1], type: int}", 18, "the default of `x` must be a single value"),
        ("{default: 5, max: 4}", 18, "the default of `x` must be at most 4, not `5`"),
        ("{default: 0, min: 1, type: int}", 18, "the default of `x` must be at least 1, not `0`"),
        ("{default: much, min: 1}", 18, "the default of `x` must be a number, not `much`"),
        ("{default: c, choices: [a, b]}", 18, "the default of `x` must be one of a, b, not `c`"),
        ("{default: 1, choices: [a], type: int}", 31, "a choice of `x` must be a whole number, not `a`"),
        ("{default: 1, choices: []}", 30, "`choices` must be a list of values"),
        ("{default: 1, choices: 1}", 30, "`choices` must be a list of values"),
        ("{default: 1, type: integer}", 27, "there is no type `integer`"),
        ("{default: 1, min: 3, max: 2}", 34, "`max` is less than `min`, 3"),
        ("{default: a, type: str, min: 1}", 37, "`min` is for numbers, and `x` is a str"),
        ("{default: 1, min: a}", 26, "`min` must be a number, not `a`"),
        ("{defualt: 1}", 9, "unknown key `defualt`"),
        ("{default: '${{ y }}'}", 18, "the default of `x` holds an expression"),
        ('{default: "\\0"}', 18, "the default of `x` must not hold a zero byte"),
        ("[1, 2]", 8, "the variable `x` must be a single value, not a list"),
    ],
)
def test_a_wrong_declaration_is_pointed_at(declaration: str, column: int, message: str, project: Make) -> None:
    (error,) = declared(declaration, project).wrong()

    assert (error.file, error.line, error.column) == (".dstack/variables.yaml", 3, column)
    assert error.message == message


@pytest.mark.parametrize(
    ("declaration", "words", "typed"),
    [
        ("{default: 1, type: int}", ["--x", "2"], 2),
        ("{default: 1, type: float}", ["--x=1e-3"], "1e-3"),
        ("{default: 1, type: str}", ["--x", "true"], "true"),
        ("{default: 1, type: str}", ["--x="], ""),
        ("{type: path}", ["--x", "../data"], "../data"),
        ("{type: bool}", ["--x"], True),
        ("{type: bool}", ["--x", "No"], False),
        ("{type: bool}", ["--x=off"], False),
        ("{choices: [1, two]}", ["--x", "two"], "two"),
    ],
)
def test_a_value_of_the_command_line(declaration: str, words: list[str], typed: object, project: Make) -> None:
    example = declared(declaration, project)

    assert value(example, *words)[0] == typed
    assert example.plan("train", *words).steps[0].variables["x"][1] == "command line"


def test_a_flag_takes_the_next_word_only_where_it_is_true_or_false(project: Make) -> None:
    (step,) = declared("{type: bool}", project).plan("train", "--x", "data").steps

    assert step.variables["x"][0] is True
    assert step.jobs[0].argv[-1] == "data"


@pytest.mark.parametrize(
    ("declaration", "words", "argument", "message"),
    [
        ("{default: 1, type: int}", ["--x", "ten"], "--x ten", "`x` must be a whole number, not `ten`"),
        ("{default: 1, type: int}", ["--x="], "--x=", "`x` must be a whole number, not ``"),
        ("{default: 1, max: 4}", ["--x=5"], "--x=5", "`x` must be at most 4, not `5`"),
        ("{choices: [sgd, adam]}", ["--train.x", "adma"], "--train.x adma", "`x` must be one of sgd, adam, not `adma`"),
        ("{type: bool}", ["--x=maybe"], "--x=maybe", "`x` must be true or false, not `maybe`"),
    ],
)
def test_a_wrong_value_of_the_command_line(
    declaration: str, words: list[str], argument: str, message: str, project: Make
) -> None:
    (error,) = declared(declaration, project).wrong("train", *words)

    assert (error.file, error.source, error.message) == (None, argument, message)
    assert ".dstack/variables.yaml:3" in error.hint or "did you mean" in error.hint


@pytest.mark.parametrize("section", ["train", "global"])
def test_what_has_no_default_must_be_given(section: str, project: Make) -> None:
    example = declared("{type: int, help: How many.}", project, section)

    (error,) = example.wrong("train")

    assert (error.file, error.line, error.message) == (".dstack/variables.yaml", 3, "the variable `x` has no value")
    assert error.hint == "run with `--x VALUE` (How many.), or give it a `default`"
    assert value(example, "--x", "3") == (3, "3")


def test_what_another_workflow_declares_is_not_asked_for(project: Make) -> None:
    assert len(declared("{type: int}", project, "other").plan("train").steps) == 1


def test_a_missing_value_is_told_once_where_it_is_declared(project: Make) -> None:
    text = "workflows:\n- {name: train, provider: bash, commands: ['echo ${{ x }}']}\n"

    errors = project(text, "variables: {global: {x: {type: int}}}").wrong("train")

    assert [error.file for error in errors] == [".dstack/variables.yaml"]


def test_a_plain_value_is_held_against_what_global_declares(project: Make) -> None:
    more = "  train:\n    x: {}\n"
    example = declared("{default: 1, type: float, max: 5}", project, "global", more.format(3))

    assert value(example) == ("3", "3")
    (error,) = declared("{default: 1, type: int, max: 5}", project, "global", more.format(7)).wrong()
    assert (error.line, error.message) == (5, "`x` must be at most 5, not `7`")
    assert error.hint == "`global` declares it in line 3"
    (error,) = example.wrong("train", "--x", "6")
    assert error.message == "`x` must be at most 5, not `6`"


def test_a_declaration_of_its_own_takes_the_place_of_the_global_one(project: Make) -> None:
    example = declared("{default: 1, max: 5}", project, "global", "  train:\n    x: {default: a, type: str}\n")

    assert value(example) == ("a", "a")


def test_a_flag_before_the_file_of_a_provider_run(project: Make) -> None:
    example = declared("{type: bool, default: no}", project, "global")

    (step,) = example.plan("python", "--x", "train.py", "a").steps
    assert (step.variables["x"][0], step.jobs[0].argv) == (True, ("python", "train.py", "a"))
    (step,) = example.plan("python", "--x=no", "train.py").steps
    assert (step.variables["x"][0], step.jobs[0].argv) == (False, ("python", "train.py"))
