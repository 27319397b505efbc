"""Runs that follow another, asked for over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.api.test_routes import submission
from tests.support.http import BASE, Asked
from tests.support.runner import FakeRunner


@pytest.fixture
def runner(asked: Asked) -> FakeRunner:
    return asked.world.runner()


@pytest.fixture
def failed(asked: Asked, runner: FakeRunner) -> str:
    """A run whose `prepare` is done and whose `train` failed."""
    name = asked.post("runs", submission(), 201)["name"]
    asked.world.complete(runner, codes={"train": 1})
    return name


def test_resumed_once_for_a_key(asked: Asked, failed: str) -> None:
    made = asked.post(f"runs/{failed}/resume", {"user": "bob"}, 201, idempotency_key="k")
    assert (made["resumed_from"], made["user"], made["warnings"]) == (failed, "bob", [])
    prepare, train = made["jobs"]
    assert (prepare["status"], prepare["status_text"], prepare["reused_run"]) == ("done", "Reused", failed)
    assert (train["status"], train["reused_run"]) == ("queued", None)
    again = asked.post(f"runs/{failed}/resume", {}, 200, idempotency_key="k")
    assert again["name"] == made["name"]
    assert len(asked.get("runs")["items"]) == 2


def test_planned(asked: Asked, failed: str) -> None:
    plan = asked.post(f"runs/{failed}/resume/plan", {})
    prepare, train = plan["steps"]
    assert (prepare["action"], prepare["from"], prepare["reused"]) == (
        "reuse", failed, [{"job": "prepare", "from": failed}],
    )  # fmt: skip
    assert (train["action"], train["reused"]) == ("run", [])
    [begin] = train["begins"]
    assert set(begin) == {"job", "path", "from", "attempt", "at", "manifest_id", "files", "size", "instead"}
    assert begin["instead"] is None
    assert len(asked.get("runs")["items"]) == 1


def test_what_has_to_be_given_again(asked: Asked, failed: str) -> None:
    assert asked.get(f"runs/{failed}/given") == {"workflow": "train", "values": [], "shell": []}


def test_refusals(asked: Asked, runner: FakeRunner, failed: str) -> None:
    changes = {"files": submission()["files"], "repository": submission()["repository"]}

    def refused(name: str, wish: dict[str, Any], status: int, code: str, path: str = "resume") -> None:
        asked.refused(asked.client.post(f"{BASE}/runs/{name}/{path}", json=wish), status, code)

    for path in ("resume", "resume/plan"):
        refused(failed, {"snapshot": "0" * 12}, 404, "not-found", path)
        refused(failed, {"snapshot": "0123"}, 400, "invalid", path)
        for wrong in ("now", -1, 10**18, 10**30):
            refused(failed, {"at": wrong}, 400, "invalid", path)
        refused(failed, {"at": 1, "fresh": True}, 400, "invalid", path)
        refused(failed, {"at": 1}, 409, "conflict", path)
        refused("nobody", {}, 404, "not-found", path)
        refused(failed, {"restart": True, "job": "trian"}, 404, "not-found", path)
        refused(failed, {"set": ["epoch=3"]}, 400, "invalid", path)
        refused(failed, {"set": "epochs=3"}, 400, "invalid", path)
        unread = {"files": {".dstack/workflows.yaml": "workflows: [{name: train, provder: bash}]"}}
        refused(failed, {"changes": {**changes, **unread}}, 422, "invalid", path)
        wrong = {"manifest_id": "zz", "content_id": "zz"}
        refused(failed, {"changes": {**changes, "code": wrong}}, 400, "invalid", path)
    missing = {"manifest_id": "ab" * 32, "content_id": "cd" * 32}
    refused(failed, {"changes": {**changes, "code": missing}}, 409, "code-missing")
    name = asked.post(f"runs/{failed}/resume", {}, 201)["name"]
    refused(name, {}, 409, "conflict")
    asked.world.complete(runner)
    refused(name, {}, 409, "nothing-to-do")
    refused(name, {}, 409, "nothing-to-do", "resume/plan")
    refused(name, {"at": 1}, 409, "conflict")
