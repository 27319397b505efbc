"""Requests that nobody should send: each is answered in words, none by a 500 or a broken connection."""

from __future__ import annotations

import json
import uuid
from typing import Any

import msgspec
import pytest

from dstack.protocol import messages
from tests.contract.api.test_routes import submission, submitted
from tests.support.http import BASE, Asked
from tests.support.world import CODE

HUGE = 2**70


@pytest.mark.parametrize("path", ["runs", "plan", "tags", "runs/x/stop", "validate"])
def test_bad_json(asked: Asked, path: str) -> None:
    for content in (b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000, b"1e999", b'{"a": 1'):
        error = asked.refused(asked.client.post(f"{BASE}/{path}", content=content), 400, "invalid")
        assert "cannot be read" in error["message"]


def test_wrong_types(asked: Asked) -> None:
    changes: list[dict[str, Any]] = [
        {"workflow": 3},
        {"workflow": None},
        {"files": [1]},
        {"files": {"a": 1}},
        {"repository": "x"},
        {"repository": {}},
        {"args": "x"},
        {"args": [1]},
        {"code": {"manifest_id": 3}},
        {"code": {"manifest_id": "zz", "content_id": "zz"}},
        {"environment": {"A": 1}},
        {"python": "3.11"},
        {"tags": "good"},
        {"tags": ["a b"]},
        {"tags": [None]},
        {"user": 5},
    ]
    for change in changes:
        asked.refused(asked.client.post(f"{BASE}/runs", json={**submission(), **change}), 400, "invalid")
    assert asked.get("runs")["items"] == []


def test_what_is_missing_is_named(asked: Asked) -> None:
    error = asked.refused(asked.client.post(f"{BASE}/runs", json={"workflow": "x", "files": {}}), 400)
    assert "repository" in error["message"]
    error = asked.refused(asked.client.post(f"{BASE}/tags", json={"run": "x"}), 400)
    assert "name" in error["message"]


def test_bad_numbers(asked: Asked) -> None:
    name = submitted(asked)
    for value in ("abc", "-1", "1.5", "1e3", "٣", str(HUGE), "0x10", " 1"):
        for path, key in (("runs", "limit"), (f"runs/{name}/logs", "since")):
            error = asked.refused(asked.client.get(f"{BASE}/{path}", params={key: value}), 400, "invalid")
            assert key in error["message"]


def test_numbers_at_the_edge(asked: Asked) -> None:
    submitted(asked)
    for limit in (0, 1, 100, 101, 10**15):
        assert len(asked.get("runs", limit=limit)["items"]) == 1


def test_bad_page_cursors(asked: Asked) -> None:
    for cursor in ("x", "0" * 31, "0" * 33, "run_" + "0" * 32, "'; DROP TABLE runs; --", "\0"):
        asked.refused(asked.client.get(f"{BASE}/runs", params={"cursor": cursor}), 400, "invalid")


BAD_LOG_CURSORS = [
    "x",
    "[]",
    "{",
    '{"train": 1}',
    '{"train": [1]}',
    '{"train": [1, -1]}',
    '{"train": [-1, 1]}',
    f'{{"train": [1, {HUGE}]}}',
    '{"train": ["1", "2"]}',
    "[" * 5000,
]


def test_bad_log_cursors(asked: Asked) -> None:
    name = submitted(asked)
    for cursor in BAD_LOG_CURSORS:
        asked.refused(asked.client.get(f"{BASE}/runs/{name}/logs", params={"cursor": cursor}), 400, "invalid")


ODD_NAMES = ["%00", "a%00b", "%F0%9F%90%99", "..%2f..", "x" * 5000, "%ff%fe", "%0a", "' OR 1=1 --", "#", "%2e%2e"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names(asked: Asked, name: str) -> None:
    for method, path in (
        ("GET", f"runs/{name}"),
        ("GET", f"runs/{name}/explain"),
        ("GET", f"runs/{name}/logs"),
        ("POST", f"runs/{name}/stop"),
        ("DELETE", f"tags/{name}"),
        ("GET", f"artifacts?run={name}"),
        ("GET", f"artifacts?tag={name}"),
        ("GET", f"artifacts/history?run={name}"),
        ("GET", f"lineage?run={name}"),
        ("GET", f"lineage?tag={name}"),
        ("GET", f"artifacts/history?tag={name}&cursor={name}"),
        ("GET", f"tags?repository={name}"),
        ("GET", f"runs?repository={name}"),
    ):
        response = asked.client.request(method, f"{BASE}/{path}")
        assert response.status_code in (200, 400, 404, 405), (method, path, response.status_code, response.text)
        assert "Traceback" not in response.text


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * 100_000, "💥\u202e", "\r\n"])
def test_odd_texts_in_every_place(asked: Asked, text: str) -> None:
    places: list[dict[str, Any]] = [
        {"workflow": text},
        {"args": [text]},
        {"files": {text: "workflows: []"}},
        {"files": {".dstack/workflows.yaml": text}},
        {"repository": {"key": text}},
        {"repository": {"key": "k", "name": text, "branch": text, "commit": text, "root": text, "aliases": [text]}},
        {"environment": {text: text}},
        {"python": {"path": text}},
        {"tags": [text]},
        {"user": text},
        {"host": text},
    ]
    for place in places:
        body = msgspec.json.encode(_escaped({**submission(), **place}))
        response = asked.client.post(f"{BASE}/runs", content=body)
        assert response.status_code in (201, 400, 422), (place, response.status_code, response.text)
    for path, body in (("tags", {"run": text, "name": "x"}), ("tags", {"run": "x", "name": text})):
        response = asked.client.post(f"{BASE}/{path}", content=msgspec.json.encode(_escaped(body)))
        assert response.status_code in (400, 404), (body, response.status_code, response.text)
    response = asked.client.post(f"{BASE}/runs", json=submission(), headers={"idempotency-key": "k" * 8000})
    assert response.status_code in (201, 400)


def _escaped(body: Any) -> Any:
    """`body` with lone surrogates written as JSON escapes, as a client in another language would."""
    return msgspec.Raw(json.dumps(body).encode())


def test_odd_numbers_of_code(asked: Asked) -> None:
    asked.world.know_code()
    for number in (HUGE, -1, -HUGE, 2**63, 1.5, True, "1"):
        code = {"manifest_id": CODE, "content_id": "cd" * 32, "files": number, "size": number}
        response = asked.client.post(f"{BASE}/runs", content=json.dumps(submission(code=code)))
        assert response.status_code in (201, 400), response.text


def test_workflows_that_would_exhaust_the_server(asked: Asked) -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"b{n}: &b{n} [*{'a' if not n else f'b{n - 1}'}, *a]\n" for n in range(60))
    for text in (bomb, "[" * 10_000, "workflows: !!python/object/apply:os.system [id]", "x" * 3_000_000):
        body = submission(files={".dstack/workflows.yaml": text})
        asked.refused(asked.client.post(f"{BASE}/runs", json=body), 422, "invalid")


# --- runners -----------------------------------------------------------------------------------------------------


def rpc(asked: Asked, path: str, content: bytes, **headers: str) -> tuple[int, Any]:
    response = asked.client.post(f"/rpc/v1/{path}", content=content, headers=headers)
    assert response.headers["content-type"] == "application/msgpack", response.text
    return response.status_code, msgspec.msgpack.decode(response.content)


@pytest.mark.parametrize("path", ["register", "poll", "events", "logs", "goodbye"])
def test_messages_that_are_none(asked: Asked, path: str) -> None:
    for content in (b"", b"\xc1", b"{}", b"\x80", b"\x93\x01", b"\x81\xa9runner_id\xa1x"):
        status, error = rpc(asked, path, content)
        assert (status, error["code"]) == (400, "invalid")
        assert "cannot be read" in error["message"]


def test_another_protocol(asked: Asked) -> None:
    status, error = rpc(asked, "poll", b"", **{messages.PROTOCOL_HEADER: "999"})
    assert (status, error["code"]) == (426, "version")
    assert "999" in error["message"]
    assert error["hint"]


def test_numbers_that_no_database_keeps(asked: Asked) -> None:
    runner = asked.world.runner()
    submitted(asked, "prepare")
    asked.world.place()
    runner.poll()
    assert runner.runner_id is not None
    key = runner.id_of("prepare")
    for code, at in ((2**40, 0), (-(2**63), 0), (0, 2**63 - 1), (0, -(2**63)), (0, 2**64 - 1)):
        exited = messages.Exited(attempt_id=key, at=at, exit_code=code, log_length=2**62)
        request = messages.EventsRequest(runner_id=runner.runner_id, incarnation=runner.incarnation, events=(exited,))
        status, _ = rpc(asked, "events", messages.encode(request))
        assert status in (200, 400)
    register = messages.RegisterRequest(
        incarnation=uuid.uuid4(), name="a\0b", version="\0", capacity=runner.capacity, slots=2**60
    )
    status, _ = rpc(asked, "register", messages.encode(register))
    assert status in (200, 400)


def test_odd_log_chunks(asked: Asked) -> None:
    runner = asked.world.runner()
    submitted(asked, "prepare")
    asked.world.place()
    runner.poll()
    assert runner.runner_id is not None
    key = runner.id_of("prepare")

    def send(*chunks: messages.LogChunk) -> tuple[int, Any]:
        request = messages.LogsRequest(runner_id=runner.runner_id or uuid.uuid4(), chunks=chunks)
        return rpc(asked, "logs", messages.encode(request))

    good = messages.LogChunk(attempt_id=key, offset=0, data=b"one\n", times=((0, 5),))
    unknown = messages.LogChunk(attempt_id=uuid.uuid4(), offset=0, data=b"x")
    assert send(good, unknown) == (200, {"next_offsets": [4, -1]})
    for offset in (-1, -100, 2**62):
        chunk = messages.LogChunk(attempt_id=key, offset=offset, data=b"zwei, drei, vier\n" * 10)
        assert send(chunk) == (200, {"next_offsets": [-1 if offset < 0 else 4]})
    for times in (((0, 2**63),), ((-5, 1),), ((2**63, 1),)):
        status, _ = send(messages.LogChunk(attempt_id=key, offset=4, data=b"", times=times))
        assert status in (200, 400)
    assert asked.world.context.logs.read_now(key).data == b"one\n"
