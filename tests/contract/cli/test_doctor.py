"""`dstack doctor`, with another server configured."""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from typing import Any

import pytest

from dstack.cli import checks
from tests.contract.cli.conftest import Dstack
from tests.support.stub_api import Reply, StubApi, error
from tests.unit.cli.test_checks import MACHINE


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the runner's check says, without asking it."""
    found = dict(MACHINE)
    monkeypatch.setattr(checks, "ask_machine", lambda: found)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return found


def look(dstack: Dstack, code: int) -> dict[str, dict[str, str]]:
    done = dstack("doctor", "--json")
    assert done.code == code, done.out
    return {check["name"]: check for check in json.loads(done.out)}


@pytest.mark.usefixtures("machine")
def test_all_well(stub: StubApi, dstack: Dstack) -> None:
    stub.on("GET /api/v1/info", Reply(body={"version": "9.9"}, headers={"date": formatdate(time.time())}))
    found = look(dstack, 0)
    assert found["server"]["text"] == f"{stub.address}, by DSTACK_SERVER={stub.address}: dstack 9.9"
    assert (found["clock"]["status"], found["clock"]["text"]) == ("ok", "like the server's")
    lines = dstack("doctor").out.splitlines()
    assert all(line.startswith(("ok ", "note ", " ")) for line in lines)
    assert "ok       gpu       Tesla T4 15GiB" in lines


@pytest.mark.usefixtures("machine")
def test_another_clock(stub: StubApi, dstack: Dstack) -> None:
    stub.on("GET /api/v1/info", Reply(body={"version": "9.9"}, headers={"date": formatdate(time.time() - 600)}))
    check = look(dstack, 1)["clock"]
    assert (check["status"], "ahead of the server's" in check["text"]) == ("problem", True)


@pytest.mark.usefixtures("machine")
def test_a_token_that_is_refused_and_a_server_that_is_away(stub: StubApi, dstack: Dstack) -> None:
    stub.on("GET /api/v1/info", error(401, "unauthorized", "the token is not known"))
    check = look(dstack, 1)["server"]
    assert ("the token is not known" in check["text"], check["fix"]) == (True, "check the token: dstack config")
    stub.close()
    assert "cannot connect" in look(dstack, 1)["server"]["text"]


def test_what_is_wrong_comes_with_what_to_do(stub: StubApi, dstack: Dstack, machine: dict[str, Any]) -> None:
    stub.on("GET /api/v1/info", Reply(body={"version": "9.9"}))
    machine["uv"] = machine["index"] = None
    done = dstack("doctor")
    assert done.code == 1
    lines = done.out.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("problem  uv "))
    assert lines[at + 1].strip().endswith("-m pip install uv")
