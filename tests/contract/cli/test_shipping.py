"""What `dstack run` says and asks about the code that it sends."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dstack.cli import interrupts
from dstack.client import code
from tests.contract.cli.conftest import Dstack, a_job, a_run
from tests.contract.cli.test_run import LOGS, Store, end
from tests.support.repositories import commit, git, put
from tests.support.stub_api import Reply, StubApi, error


@pytest.fixture
def store(stub: StubApi) -> Store:
    return Store(stub)


@pytest.fixture
def accepting(stub: StubApi, store: Store) -> StubApi:
    stub.on("POST …/runs", Reply(201, a_run(status="queued", jobs=[a_job("train", "queued")])))
    return stub


@pytest.fixture
def large(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(code, "LARGE_SIZE", 5000)
    put(repository, "data\n1.bin", "x" * 6000)
    return repository


QUESTION = "The code of this run is 3 files, 5.9KiB. The largest:\n     5.9KiB  data\\n1.bin\n"


def test_much_code_is_not_sent_unasked(accepting: StubApi, dstack: Dstack, large: Path) -> None:
    done = dstack("run", "-d", "train")
    assert done.code == 2
    assert done.err.startswith(QUESTION)
    assert done.err.endswith(
        "error: not shipped without asking: 3 files, 5.9KiB\n"
        "  hint: name what a run does not need in .dstackignore, or agree with --yes or DSTACK_LARGE_CODE=1\n"
    )
    assert not accepting.calls


@pytest.mark.parametrize("option", ["-y", "--yes", ""])
def test_it_can_be_agreed_to_beforehand(
    accepting: StubApi, dstack: Dstack, large: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    if not option:
        monkeypatch.setenv("DSTACK_LARGE_CODE", "1")
    done = dstack("run", "-d", *([option] if option else []), "train")
    assert (done.code, done.out) == (0, "odd-cat-1\n")
    assert done.err == QUESTION + "".join(
        f"{size:>11}  {name}\n" for size, name in (("46B", ".dstack/workflows.yaml"), ("9B", "train.py"))
    )


@pytest.mark.parametrize(("answer", "expected"), [("y\n", 0), ("YES\n", 0), ("n\n", 2), ("\n", 2), ("", 2)])
def test_a_person_is_asked(
    accepting: StubApi, dstack: Dstack, large: Path, monkeypatch: pytest.MonkeyPatch, answer: str, expected: int
) -> None:
    monkeypatch.setattr(interrupts, "has_terminal", lambda: True)
    read, write = os.pipe()
    os.write(write, answer.encode())
    os.close(write)
    with open(read) as typed:
        monkeypatch.setattr("sys.stdin", typed)
        done = dstack("run", "-d", "train")
    assert "Ship all of it? [y/N] " in done.err
    assert done.code == expected
    if expected:
        assert "error: not shipped: 3 files" in done.err
        assert not accepting.named("POST …/runs")


def test_what_a_person_should_know_is_said_once(accepting: StubApi, dstack: Dstack, repository: Path) -> None:
    accepting.on("POST …/runs", error(409, "code-missing", "lost"), Reply(201, a_run(status="queued")))
    (repository / "out").symlink_to("/etc/hostname")
    done = dstack("run", "-d", "train")
    assert done.err == (
        "warning: links go as links, and these may lead nowhere: out → /etc/hostname (an absolute path)\n"
    )
    assert len(accepting.named("POST …/runs")) == 2


def test_commit_branch_and_difference_go_along(accepting: StubApi, dstack: Dstack, repository: Path) -> None:
    git(repository, "init", "-q")
    commit(repository)
    put(repository, "train.py", "print(2)\n")
    assert dstack("run", "-d", "train").code == 0
    sent = accepting.named("POST …/runs")[0].json
    assert sent["repository"]["branch"] == "main"
    assert len(sent["repository"]["commit"]) == 40
    assert sent["diff"].endswith("@@ -1 +1 @@\n-print(1)\n+print(2)\n")


def test_without_git_there_is_no_difference(accepting: StubApi, dstack: Dstack) -> None:
    dstack("run", "-d", "train")
    assert accepting.named("POST …/runs")[0].json["diff"] is None


def test_dstacks_own_folder_is_no_code(
    accepting: StubApi, dstack: Dstack, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person's home folder may be a repository, and holds dstack's own folder."""
    monkeypatch.setenv("DSTACK_HOME", str(repository / ".dstack"))
    put(repository, ".dstack/server/store/packs/ab/ab", "x")
    for _ in range(2):
        assert dstack("run", "-d", "train").code == 0
    assert accepting.named("POST …/runs")[-1].json["code"]["files"] == 2


FAILED = {"status": "failed", "exit_code": 1, "reason": "exit-code", "reason_text": "train exited with code 1"}


class TestHint:
    def explained(self, stub: StubApi, repository: Path, *tail: str, key: str | None = None) -> None:
        cause = {"job": "train", "sentence": "train exited with code 1", "tail": list(tail)}
        found = {"summary": "run odd-cat-1 failed", "lines": [], "root_cause": cause, "waiting": []}
        stub.on("GET …/runs/odd-cat-1/explain", Reply(body=found))
        stub.on("GET …/runs/odd-cat-1", Reply(body=a_run(repository=key or str(repository), **FAILED)))

    def ignored(self, repository: Path) -> str:
        put(repository, ".dstackignore", "data/\n")
        put(repository, "data/a.csv")
        return "hint: data/a.csv is here, but was not shipped: a .dstackignore or `code: exclude` names it. Take it out"

    def test_at_the_end_of_a_run(self, accepting: StubApi, dstack: Dstack, repository: Path) -> None:
        hint = self.ignored(repository)
        accepting.on(LOGS, Reply(stream=end(**FAILED)))
        self.explained(accepting, repository, "cat: data/a.csv: No such file or directory")
        done = dstack("run", "train")
        assert done.code == 1
        assert f"\n  {hint} there\n" in done.err

    def test_of_an_explanation(self, stub: StubApi, dstack: Dstack, repository: Path) -> None:
        hint = self.ignored(repository)
        self.explained(stub, repository, "cat: data/a.csv: No such file or directory")
        assert dstack("explain", "odd-cat-1").out.endswith(f"{hint} there\n")

    def test_not_of_another_repository(self, stub: StubApi, dstack: Dstack, repository: Path) -> None:
        self.ignored(repository)
        self.explained(stub, repository, "cat: data/a.csv: No such file or directory", key="github.com/me/other")
        assert "hint" not in dstack("explain", "odd-cat-1").out

    def test_a_server_that_does_not_answer_takes_no_exit_code_away(self, accepting: StubApi, dstack: Dstack) -> None:
        accepting.on(LOGS, Reply(stream=end(**FAILED)))
        accepting.on("GET …/runs/odd-cat-1/explain", error(503, "unavailable", "later"))
        done = dstack("run", "train")
        assert done.code == 1
        assert done.err.endswith("why: dstack explain odd-cat-1\n")


def test_what_is_sent_is_text_that_json_can_carry(
    accepting: StubApi, dstack: Dstack, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes of a name on disk need not be UTF-8."""
    odd = os.fsencode(repository.parent) + b"/caf\xe9"
    os.rename(repository, odd)
    monkeypatch.chdir(os.fsdecode(odd))
    assert dstack("run", "-d", "train").code == 0
    sent = accepting.named("POST …/runs")[0]
    assert json.dumps(sent.json, ensure_ascii=False).encode()
    assert sent.json["repository"]["name"] == "caf\\xe9"
