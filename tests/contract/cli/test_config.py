"""`dstack config`, and which server commands then use."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tests.contract.cli.conftest import Dstack
from tests.contract.cli.test_commands import ask
from tests.support.stub_api import Reply, StubApi


@pytest.fixture
def file(stub: StubApi, dstack: Dstack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the profiles go; nothing is configured yet."""
    for name in ("DSTACK_SERVER", "DSTACK_PROFILE", "DSTACK_CONFIG", "DSTACK_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    stub.on("GET /api/v1/info", Reply(body={"version": "9.9"}))
    stub.on("GET /api/v1/projects/vision/runs", Reply(body={"items": [], "next": None}))
    return tmp_path / "home" / "config.yaml"


def test_a_profile_is_set_and_used(stub: StubApi, dstack: Dstack, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = dstack("config", "--server", stub.address, "--token", "t0k", "--project", "vision")
    assert (done.code, done.out) == (0, "")
    assert done.err == f"{file}: the profile `default` is set\n{stub.address} answers: dstack 9.9\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert dstack("runs", "-a", "--json").out == "[]\n"
    call = stub.calls[-1]
    assert (call.path, call.headers["authorization"]) == ("/api/v1/projects/vision/runs", "Bearer t0k")


def test_a_server_that_is_not_up_yet(dstack: Dstack, file: Path, tmp_path: Path) -> None:
    done = dstack("config", "later", "--server", f"unix:{tmp_path}/nobody")
    assert (done.code, "does not answer yet" in done.err, file.exists()) == (0, True, True)


def test_the_list_shows_no_token(stub: StubApi, dstack: Dstack, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "No profiles" in dstack("config", "list").err
    dstack("config", "--server", stub.address, "--token", "t0k")
    dstack("config", "other", "--server", "https://nowhere.invalid", "--no-verify")
    done = dstack("config", "list")
    assert "t0k" not in done.out + dstack("config", "list", "--json").out
    assert [line.split()[:3] for line in done.out.splitlines()] == [
        ["PROFILE", "SERVER", "PROJECT"], ["default", "*", stub.address], ["other", "https://nowhere.invalid", "main"],
    ]  # fmt: skip
    found = json.loads(dstack("config", "list", "--json").out)
    assert [(item["name"], item["current"], item["token"], item["verify"]) for item in found] == [
        ("default", True, True, True), ("other", False, False, False),
    ]  # fmt: skip
    monkeypatch.setenv("DSTACK_PROFILE", "other")
    assert [item["current"] for item in json.loads(dstack("config", "list", "--json").out)] == [False, True]


def test_nothing_is_replaced_unasked(
    stub: StubApi, dstack: Dstack, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dstack("config", "a", "--server", stub.address)
    before = file.read_text()
    assert dstack("config", "a", "--server", "https://x.invalid").code == 1
    ask("n\n", monkeypatch)
    assert dstack("config", "a", "--server", "https://x.invalid").code == 1
    assert file.read_text() == before
    ask("y\n", monkeypatch)
    monkeypatch.setattr("getpass.getpass", lambda *_, **__: "typed")
    assert dstack("config", "a", "--server", stub.address).code == 0
    assert "token: typed" in file.read_text()


def test_it_asks_for_what_is_missing(
    stub: StubApi, dstack: Dstack, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = dstack("config")
    assert (done.code, "a profile needs a server" in done.err, file.exists()) == (2, True, False)
    ask(f"{stub.address}\n", monkeypatch)
    monkeypatch.setattr("getpass.getpass", lambda *_, **__: "")
    assert dstack("config").code == 0
    assert file.read_text() == f"profiles:\n  default:\n    server: {stub.address}\n"


def test_mistakes(dstack: Dstack, file: Path) -> None:
    done = dstack("config", "--server", "example.org")
    assert (done.code, "`example.org` of the profile `default` is not an address" in done.err) == (2, True)
    assert dstack("config", "local", "--server", "https://x").code == 2
    assert not file.exists()
    assert "there is no profile `x`" in dstack("config", "delete", "x").err
    file.parent.mkdir(exist_ok=True)
    file.write_text("profiles: [")
    done = dstack("config", "list")
    assert (done.code, f"{file} is not YAML" in done.err) == (2, True)


def test_deleted(stub: StubApi, dstack: Dstack, file: Path) -> None:
    dstack("config", "a", "--server", stub.address)
    assert dstack("config", "delete", "a").code == 0
    assert json.loads(dstack("config", "list", "--json").out) == []


def test_the_server_of_a_profile_is_not_stopped_from_here(
    stub: StubApi, dstack: Dstack, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dstack("config", "--server", stub.address)
    done = dstack("server", "stop")
    assert (done.code, f"the server is {stub.address}, by the profile `default`" in done.err) == (2, True)
    assert "DSTACK_SERVER=local" in done.err
    monkeypatch.setattr("dstack.cli.session._DEPLOYED_PATIENCE", 0.1)
    stub.close()
    assert f"it is {stub.address}, by the profile `default` of {file}" in dstack("runs", "x").err
