"""The routes of secrets: what is sent and answered, and that a value is in no answer and no address."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from dstack.protocol import messages
from tests.contract.api.test_routes import fields_of
from tests.contract.api.test_rpc import call, register
from tests.support.http import BASE, Asked
from tests.support.world import REPOSITORY

VALUE = "hf_s3cret-value"
REPO: dict[str, Any] = {"key": REPOSITORY, "name": "digits"}
WORKFLOWS = "workflows:\n  - {name: job, provider: bash, env: ['T=${{ secrets.TOKEN }}', SEED], commands: ['true']}\n"


def add(asked: Asked, name: str = "TOKEN", **more: Any) -> Any:
    return asked.post("secrets", {"repository": REPO, "name": name, "value": VALUE, **more}, 201, x_dstack_user="ada")


def test_from_the_first_to_the_last(asked: Asked) -> None:
    made = add(asked)
    assert set(made) == fields_of("Secret")
    assert (made["name"], made["by"]) == ("TOKEN", "ada")
    assert asked.get("secrets", repository=REPOSITORY) == {"items": [made], "next": None}
    asked.world.clock.advance(5)
    body = {"repository": REPO, "value": "another-value"}
    changed = asked.ok(asked.client.put(f"{BASE}/secrets/TOKEN", json=body))
    assert changed["updated_at"] == made["updated_at"] + 5_000_000
    moved = {"repository": "git:example.org/moved:.", "alias": REPOSITORY}
    assert asked.get("secrets", **moved)["items"] == [changed]
    assert asked.ok(asked.client.delete(f"{BASE}/secrets/TOKEN", params=moved)) == changed
    assert asked.get("secrets", repository=REPOSITORY)["items"] == []


def test_refusals(asked: Asked) -> None:
    add(asked)
    client = asked.client
    asked.refused(client.post(f"{BASE}/secrets", json={"repository": REPO, "name": "TOKEN", "value": VALUE}), 409)
    asked.refused(client.post(f"{BASE}/secrets", json={"repository": REPO, "name": "A-B", "value": VALUE}), 400)
    asked.refused(client.post(f"{BASE}/secrets", json={"repository": REPO, "name": "A", "value": ""}), 400)
    asked.refused(client.put(f"{BASE}/secrets/NONE", json={"repository": REPO, "value": VALUE}), 404)
    asked.refused(client.delete(f"{BASE}/secrets/NONE", params={"repository": REPOSITORY}), 404)
    asked.refused(client.get(f"{BASE}/secrets"), 400)
    assert add(asked, overwrite=True)["name"] == "TOKEN"


@pytest.mark.parametrize(
    "body",
    [
        b'{"repository": {"key": "r"}, "name": "A", "value": ["hf_s3cret-value"]}',
        b'{"repository": {"key": "r"}, "name": "A", "value": "hf_s3cret-value", "overwrite": "hf_s3cret-value"}',
        b'{"repository": {"key": "r"}, "name": "A", "value": "hf_s3cret-value\\u0000"}',
        b'{"repository": {"key": "r"}, "name": "A", "value": "hf_s3cret-value',
        b'{"repository": {"key": "r"}, "name": "A", "value": "hf_s3cret-value\\ud800"}',
    ],
)
def test_no_refusal_repeats_a_value(asked: Asked, body: bytes) -> None:
    response = asked.client.post(f"{BASE}/secrets", content=body)
    asked.refused(response, 400)
    assert VALUE not in response.text


def test_a_submission_that_was_refused_repeats_no_value(asked: Asked) -> None:
    submission = {
        "workflow": "job", "files": {".dstack/workflows.yaml": WORKFLOWS}, "repository": REPO,
        "values": {"SEED": VALUE, "B AD": VALUE},
    }  # fmt: skip
    for path in ("runs", "plan"):
        response = asked.client.post(f"{BASE}/{path}", json=submission)
        asked.refused(response, 400)
        assert VALUE not in response.text


def test_what_a_runner_is_handed(asked: Asked) -> None:
    add(asked)
    reply, incarnation = register(asked)
    me: dict[str, Any] = {"runner_id": reply.runner_id, "incarnation": incarnation}
    submission = {
        "workflow": "job", "files": {".dstack/workflows.yaml": WORKFLOWS}, "repository": REPO,
        "values": {"SEED": "7", "OTHER": "dropped"},
    }  # fmt: skip
    shown = asked.post("runs", submission, 201)
    asked.world.place()
    (assignment,) = call(asked, "poll", messages.PollRequest(**me, wait=0), messages.Commands).assign
    request = messages.SecretsRequest(**me, attempt_id=assignment.attempt_id)
    found = call(asked, "secrets", request, messages.SecretsReply)
    assert found.values == {"TOKEN": VALUE, "env:SEED": "7"}
    assert found.masked == ("TOKEN",)
    stranger = messages.SecretsRequest(
        runner_id=uuid.uuid4(), incarnation=incarnation, attempt_id=assignment.attempt_id
    )
    assert call(asked, "secrets", stranger, messages.SecretsReply) == messages.SecretsReply(register=True)
    name = shown["name"]
    for path in (f"runs/{name}", f"runs/{name}/explain", "runs"):
        assert VALUE not in asked.client.get(f"{BASE}/{path}").text
