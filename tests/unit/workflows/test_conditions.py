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
