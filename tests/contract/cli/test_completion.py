"""Completion of what the server knows, and the code that shells are given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.cli.conftest import Dstack
from tests.support.stub_api import Reply, StubApi, error

NAMES = {
    "runs": [
        {"name": "odd-cat-1", "workflow": "train", "status": "done"},
        {"name": "odd-cow-2", "workflow": "train", "status": "running"},
    ],
    "tags": ["best", "v1"],
}


@pytest.fixture
def named(stub: StubApi) -> StubApi:
    stub.on("GET …/names", Reply(body=NAMES))
    return stub


def offered(dstack: Dstack, line: str, shell: str = "zsh") -> list[str]:
    done = dstack("__complete", shell, line)
    assert (done.code, done.err) == (0, "")
    return [text.partition("\t")[0] for text in done.out.splitlines()]


def test_runs_and_tags(named: StubApi, dstack: Dstack, repository: Path) -> None:
    assert offered(dstack, "dstack logs -f odd-c") == ["odd-cat-1", "odd-cow-2"]
    assert named.calls[0].query == {"repository": str(repository)}
    assert offered(dstack, "dstack artifacts download :") == [":best", ":v1"]
    assert offered(dstack, "dstack artifacts list o") == ["odd-cat-1", "odd-cow-2"]
    assert offered(dstack, "dstack untag ") == ["best", "v1", "odd-cat-1", "odd-cow-2"]
    assert offered(dstack, "dstack tag odd-cat-1 ") == ["best", "v1"]
    assert offered(dstack, "dstack run -t ") == ["best", "v1"]
    assert offered(dstack, "dstack rm odd-cat-1 ") == ["odd-cow-2"], "not what stands there already"
    assert dstack("__complete", "fish", "dstack stop odd-cow").out == "odd-cow-2\ttrain, running\n"


def test_bash_takes_what_stands_behind_a_colon_for_a_word(named: StubApi, dstack: Dstack) -> None:
    assert offered(dstack, "dstack artifacts list :v", "bash") == ["v1"]


def test_a_server_that_is_not_there_is_not_started(
    named: StubApi, dstack: Dstack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it said last is offered then."""
    offered(dstack, "dstack logs ")
    named.on("GET …/names", error(500, "internal", "broken"))
    assert offered(dstack, "dstack logs odd-ca") == ["odd-cat-1"]
    named.close()
    assert offered(dstack, "dstack logs odd-ca") == ["odd-cat-1"]
    monkeypatch.delenv("DSTACK_SERVER")
    assert offered(dstack, "dstack logs ") == []
    assert not (tmp_path / "home" / "server").exists()


def test_bash_completes(named: StubApi, repository: Path, tmp_path: Path) -> None:
    script = r"""
eval "$(dstack completion bash)"
offer() { COMP_LINE=$1 COMP_POINT=${#1}; _dstack; printf '%s|' "${COMPREPLY[@]}"; echo; }
offer 'dstack run tr'
offer 'dstack logs odd-'
offer 'dstack artifacts list :'
offer 'dstack run train da'
complete -p dstack
"""
    environment = {
        **os.environ, "DSTACK_SERVER": named.address, "DSTACK_HOME": str(tmp_path / "home"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    done = subprocess.run(
        ["bash", "--norc", "-c", script], cwd=repository, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "train|", "odd-cat-1|odd-cow-2|", "best|v1|", "|", "complete -o default -F _dstack dstack",
    ]  # fmt: skip
    assert done.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_code_says_where_it_goes(dstack: Dstack, shell: str) -> None:
    done = dstack("completion", shell)
    assert done.out.startswith(f"# Completion of dstack for {shell}. Put into ~/.")
    assert f"dstack __complete {shell} " in done.out
    assert "is not one of" in dstack("completion", "csh").err
