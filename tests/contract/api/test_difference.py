"""`GET …/runs/NAME/diff`: what was submitted comes back as text."""

from __future__ import annotations

from typing import Any

import pytest

from dstack.server.services import differences
from tests.contract.api.test_routes import submission
from tests.support.http import BASE, Asked


def submitted(asked: Asked, **more: Any) -> str:
    return asked.post("runs", submission("prepare", **more), 201)["name"]


@pytest.mark.parametrize("text", ["", "--- a/x\n+++ b/x\n+grün \u2028\x1b[31m\r\n", "line\n" * 200_000])
def test_the_text_comes_back(asked: Asked, text: str) -> None:
    name = submitted(asked, diff=text)
    answer = asked.client.get(f"{BASE}/runs/{name}/diff")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert answer.content.decode() == text


@pytest.mark.parametrize("more", [{}, {"diff": None}])
def test_none_is_not_an_empty_one(asked: Asked, more: dict[str, Any]) -> None:
    error = asked.refused(asked.client.get(f"{BASE}/runs/{submitted(asked, **more)}/diff"), 404, "not-found")
    assert error["message"] == "the run was submitted without a difference from a commit"


def test_an_unknown_run(asked: Asked) -> None:
    error = asked.refused(asked.client.get(f"{BASE}/runs/nobody-1/diff"), 404, "not-found")
    assert "nobody-1" in error["message"]


def test_too_much_is_refused_and_no_run_is_made(asked: Asked) -> None:
    body = submission("prepare", diff="x" * (differences.MOST + 1))
    asked.refused(asked.client.post(f"{BASE}/runs", json=body), 413, "too-large")
    assert asked.get("runs")["items"] == []
