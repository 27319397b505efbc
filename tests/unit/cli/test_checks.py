"""What `dstack doctor` says of a machine."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dstack.cli import checks
from dstack.cli.checks import Check

MACHINE: dict[str, Any] = {
    "cpus": 8, "memory": 16 << 30, "gpus": [{"name": "Tesla T4", "memory": 15 << 30}], "pythons": ["3.11", "3.12"],
    "uv": {"path": "/v/bin/uv", "version": "0.9.1"},
    "index": {"where": "https://i/simple", "ok": True, "offline": False, "detail": ""},
}  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Short enough for a socket."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="dstack-doctor-"))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("DSTACK_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    yield folder
    shutil.rmtree(folder)


def by_name(found: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in found}


class TestPython:
    def test_the_shells_own(self, home: Path) -> None:
        check = checks.check_python(str(home))
        assert (check.status, "dstack " in check.text) == ("ok", True)

    def test_none_on_the_path(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(home))
        monkeypatch.delenv("VIRTUAL_ENV", raising=False)
        check = checks.check_python(str(home))
        assert (check.status, "no working `python3`" in check.text, "install Python 3" in check.fix) == (
            "problem", True, True,
        )  # fmt: skip

    def test_of_conda(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        environment = home / "envs" / "ml"
        (environment / "conda-meta").mkdir(parents=True)
        (environment / "bin").mkdir()
        python = environment / "bin" / "python3"
        python.write_text(f"#!/bin/sh\necho {python}\necho 3.10.4\n")
        python.chmod(0o755)
        monkeypatch.setenv("PATH", f"{python.parent}:/usr/bin:/bin")
        monkeypatch.delenv("VIRTUAL_ENV", raising=False)
        assert f"jobs use 3.10.4 of {python} (conda)" in checks.check_python(str(home)).text


class TestGit:
    def test_without(self, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(home))
        assert checks.check_git().status == "note"
        (tmp_path / ".git").mkdir()
        (tmp_path / ".dstack").mkdir()
        (tmp_path / ".dstack" / "workflows.yaml").touch()
        assert (checks.check_git().status, checks.check_git().text) == ("problem", "not found")

    def test_with(self) -> None:
        assert checks.check_git().status == "ok"


class TestHome:
    def test_all_well(self, home: Path) -> None:
        assert {check.status for check in checks.check_home(f"{home}/not/yet/there")} == {"ok"}

    def test_no_room(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for free, status in ((1 << 20, "problem"), (5 << 30, "note"), (1 << 40, "ok")):
            monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: type("Usage", (), {"free": free}))
            assert by_name(checks.check_home(str(home)))["disk"].status == status

    def test_profiles_that_others_can_read(self, home: Path) -> None:
        (home / "config.yaml").write_text("profiles: {}\n")
        (home / "config.yaml").chmod(0o644)
        check = by_name(checks.check_home(str(home)))["profiles"]
        assert (check.status, check.fix) == ("problem", f"chmod 600 {home}/config.yaml")

    def test_that_cannot_be_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("os.access", lambda *_: False)
        [check] = checks.check_home("/somewhere")
        assert (check.status, "DSTACK_HOME" in check.fix) == ("problem", True)

    def test_a_file_server_with_another_clock(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checks, "_file_clock", lambda _: 90.0)
        check = by_name(checks.check_home(str(home)))["file clock"]
        assert (check.status, "90 s ahead of this machine's" in check.text) == ("problem", True)


class TestSocket:
    def test_free(self, home: Path) -> None:
        check = checks.check_socket(str(home))
        assert check == Check("socket", "ok", f"{home}/server/server.sock (nobody listens there now)")
        assert os.listdir(home / "server") == []

    def test_where_none_can_be_made(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(socket.socket, "bind", refuse)
        check = checks.check_socket(str(home))
        assert (check.status, "Operation not supported" in check.text) == ("problem", True)


class TestProxies:
    def test_none(self) -> None:
        assert checks.check_proxies({}) == []

    def test_a_password_is_not_shown(self) -> None:
        [check] = checks.check_proxies({"HTTPS_PROXY": "http://me:s3cret@proxy.example.org:3128"})
        assert (check.status, check.text) == (
            "note", "HTTPS_PROXY leads through http://proxy.example.org:3128; it goes along with jobs",
        )  # fmt: skip

    @pytest.mark.parametrize("value", ["proxy.example.org:3128", "http://", "ftp://x"])
    def test_no_address(self, value: str) -> None:
        [check] = checks.check_proxies({"http_proxy": value})
        assert (check.status, check.fix) == ("problem", "write HTTP_PROXY=http://HOST:PORT")

    def test_two_that_differ(self) -> None:
        found = checks.check_proxies({"HTTP_PROXY": "http://a:1", "http_proxy": "http://b:1"})
        assert [check.status for check in found] == ["problem", "note"]


class TestMachine:
    def test_all_well(self) -> None:
        found = [
            checks.check_uv(MACHINE), checks.check_index(MACHINE),
            checks.check_capacity(MACHINE), checks.check_gpus(MACHINE),
        ]  # fmt: skip
        assert [(check.status, check.text) for check in found] == [
            ("ok", "0.9.1 at /v/bin/uv; Pythons for jobs: 3.11, 3.12"),
            ("ok", "found by https://i/simple"),
            ("ok", "8 CPUs, 16GiB for jobs"),
            ("ok", "Tesla T4 15GiB"),
        ]

    @pytest.mark.parametrize(
        ("found", "status", "words"),
        [
            ({"way": "reflink", "why": "only root may"}, "ok", "share their blocks"),
            ({"way": "overlay", "why": "ext4 cannot"}, "ok", "laid over the runner's cache"),
            (
                {"way": "direct", "why": "ext4 cannot; only root may"},
                "note",
                "copied for each job: ext4 cannot; only root",
            ),
            ({"way": "copy", "why": ""}, "note", "DSTACK_RUNNER_INPUTS_WAY says so"),
        ],
    )
    def test_how_inputs_reach_jobs(self, found: dict[str, str], status: str, words: str) -> None:
        [check] = checks.check_inputs({**MACHINE, "inputs": found})
        assert (check.status, bool(check.fix)) == (status, status != "ok")
        assert words in check.text

    def test_before_the_first_run_nothing_is_said_of_inputs(self) -> None:
        assert checks.check_inputs({**MACHINE, "inputs": None}) == []

    def test_without_uv(self) -> None:
        machine = {**MACHINE, "uv": None, "index": None}
        assert [checks.check_uv(machine).status, checks.check_index(machine).status] == ["problem", "problem"]

    def test_an_index_that_does_not_answer(self) -> None:
        index = {**MACHINE["index"], "ok": False, "detail": "connection refused"}
        check = checks.check_index({**MACHINE, "index": index})
        assert (check.status, check.text) == ("problem", "not found by https://i/simple: connection refused")
        index = {**MACHINE["index"], "offline": True, "where": "/wheels"}
        assert checks.check_index({**MACHINE, "index": index}).status == "note"

    def test_a_card_without_its_driver(self) -> None:
        machine = {**MACHINE, "gpus": []}
        assert checks.check_gpus(machine, list).status == "note"
        check = checks.check_gpus(machine, lambda: ["/dev/nvidia0"])
        assert (check.status, "/dev/nvidia0 is there" in check.text) == ("problem", True)

    def test_a_runner_that_cannot_be_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object, **__: object) -> None:
            raise subprocess.CalledProcessError(1, "python")

        monkeypatch.setattr("subprocess.run", fail)
        assert checks.ask_machine() is None
