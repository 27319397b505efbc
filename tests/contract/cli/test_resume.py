"""`dstack resume` and `dstack restart`: what goes to the server, and what is said of its answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.contract.cli.conftest import LOGS, Dstack, Store, a_job, a_run, end
from tests.support.stub_api import Reply, StubApi, error, frames

OLD = "old-cow-1"
GIVEN = f"GET …/runs/{OLD}/given"
RESUME = f"POST …/runs/{OLD}/resume"
PLAN = f"POST …/runs/{OLD}/resume/plan"


@pytest.fixture
def resuming(accepting: StubApi) -> StubApi:
    """A server on which OLD ended, and whatever follows it becomes `odd-cat-1`."""
    accepting.on(GIVEN, Reply(body={"workflow": "train", "values": [], "shell": []}))
    accepting.on(RESUME, Reply(201, a_run(status="queued", status_text="Queued")))
    accepting.on(LOGS, Reply(stream=end()))
    return accepting


def sent(stub: StubApi, route: str = RESUME) -> dict[str, Any]:
    [call] = stub.named(route)
    return call.json


def test_resume_is_followed_like_any_run(resuming: StubApi, dstack: Dstack) -> None:
    done = dstack("resume", OLD, "-t", "v1")
    assert done.code == 0
    wish = sent(resuming)
    assert (wish["restart"], wish["job"], wish["fresh"], wish["tags"], wish["changes"]) == (
        False, None, False, ["v1"], None,
    )  # fmt: skip
    assert len(resuming.named(RESUME)[0].headers["idempotency-key"]) == 32
    assert done.err.startswith("RUN        WORKFLOW  STATUS  TAG\nodd-cat-1  train     Queued  v1\n")
    assert done.err.endswith("odd-cat-1 done in 12 s\n")


def test_restart_names_the_job(resuming: StubApi, dstack: Dstack) -> None:
    assert dstack("restart", OLD, "train", "--fresh", "--set", "lr=0.1", "--set", "x.y=2", "-d").code == 0
    wish = sent(resuming)
    assert (wish["restart"], wish["job"], wish["fresh"], wish["set"]) == (True, "train", True, ["lr=0.1", "x.y=2"])
    assert not resuming.named(LOGS), "-d follows nothing"


def test_the_job_may_stand_behind_the_run(resuming: StubApi, dstack: Dstack) -> None:
    assert dstack("restart", f"{OLD}/train", "-d").code == 0
    assert sent(resuming)["job"] == "train"
    done = dstack("restart", f"{OLD}/train", "other")
    assert (done.code, "two jobs were given: train and other" in done.err) == (2, True)


def test_resume_takes_no_job(resuming: StubApi, dstack: Dstack) -> None:
    done = dstack("resume", f"{OLD}/train")
    assert (done.code, done.err) == (2, (
        f"error: `{OLD}/train` is a job: resume goes on with a whole run\n"
        f"  hint: dstack resume {OLD}; or, to run that job and what comes after it again: dstack restart {OLD} train\n"
    ))  # fmt: skip
    assert not resuming.named(RESUME)


def test_the_exit_code_is_the_runs(resuming: StubApi, dstack: Dstack) -> None:
    saved = {"path": "model", "job": "train", "files": 1, "size": 1, "partial": True}
    ended = {"status": "failed", "exit_code": 7, "jobs": [a_job("train", artifacts=[saved])]}
    resuming.on(LOGS, Reply(stream=end(**ended)))
    done = dstack("resume", OLD)
    assert done.code == 7
    assert done.err.endswith("  go on from there: dstack resume odd-cat-1\n")


def test_reused_jobs_are_told_of(resuming: StubApi, dstack: Dstack) -> None:
    jobs = [
        {"t": "job", "job": f"prepare-{number}", "status": "done", "reused_from": "job_1", "reused_run": OLD}
        for number in range(12)
    ]
    resuming.on(LOGS, Reply(stream=[*frames(*jobs), *end()]))
    told = dstack("resume", OLD).err
    assert f"prepare-0: reused from {OLD}\n" in told
    assert "more jobs are reused: dstack runs odd-cat-1 shows them\n" in told
    assert "prepare-10" not in told


@pytest.mark.parametrize("json_too", [False, True])
def test_where_nothing_is_left_to_do(json_too: bool, resuming: StubApi, dstack: Dstack) -> None:
    resuming.on(RESUME, error(409, "nothing-to-do", f"run {OLD} is done: there is nothing to resume", "restart it"))
    done = dstack("resume", OLD, *(["--json"] if json_too else []))
    assert (done.code, done.out) == (0, "[]\n" if json_too else "")
    assert done.err == f"run {OLD} is done: there is nothing to resume\n  hint: restart it\n"


def test_a_run_that_runs_is_no_success(resuming: StubApi, dstack: Dstack) -> None:
    resuming.on(RESUME, error(409, "conflict", f"run {OLD} is still running", "stop it first"))
    done = dstack("resume", OLD)
    assert (done.code, done.err) == (2, f"error: run {OLD} is still running\n  hint: stop it first\n")


def test_values_come_from_the_shell_again(
    resuming: StubApi, dstack: Dstack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    resuming.on(GIVEN, Reply(body={"workflow": "train", "values": ["A", "B", "C"], "shell": ["PRIVATE_URL"]}))
    for name, value in {"A": "1", "B": "2", "PRIVATE_URL": "https://me:secret@x", "OTHER": "no"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "values.env").write_text("C=3\nD=4\n")
    assert dstack("resume", OLD, "-e", "B=20", "--env-file", str(tmp_path / "values.env"), "-d").code == 0
    wish = sent(resuming)
    assert wish["values"] == {"A": "1", "B": "20", "C": "3", "D": "4"}
    assert wish["args"] == ["-e", "D"], "the others are named already"
    assert wish["environment"]["PRIVATE_URL"] == "https://me:secret@x"
    assert "OTHER" not in wish["environment"]


def test_what_is_given_is_read_as_run_reads_it(resuming: StubApi, dstack: Dstack, repository: Path) -> None:
    (repository / "vars").write_text("A=1\n")
    assert "hint: correct the path" in dstack("resume", OLD, "--env-file", "missing").err
    done = dstack("resume", OLD, "--env-file", "vars", "-d")
    assert (done.code, "goes with the code" in done.err) == (0, False)
    done = dstack("resume", OLD, "--env-file", "vars", "-d", "--with-local-changes")
    assert (done.code, "warning: vars itself goes with the code" in done.err) == (0, True)


def test_the_plan_says_what_gives_a_value(resuming: StubApi, dstack: Dstack, tmp_path: Path) -> None:
    (tmp_path / "vars").write_text("B=s3cret\n")
    env = {name: f"${name} of your shell" for name in "ABC"}
    steps = [{"name": "train", "action": "run", "provider": "bash", "env": env}]
    resuming.on(PLAN, Reply(body={"workflow": "train", "steps": steps}))

    done = dstack("resume", OLD, "--plan", "-e", "A=1", "--env-file", str(tmp_path / "vars"), "-e", "C")

    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert lines[-3:] == ["env A=(given by -e)", f"env B=(given by {tmp_path}/vars)", "env C=$C of your shell"]


@pytest.mark.parametrize("words", [[], ["--with-local-changes"]])
def test_a_file_that_is_here_and_was_not_sent_is_told_of(
    words: list[str], resuming: StubApi, dstack: Dstack, repository: Path
) -> None:
    (repository / ".dstackignore").write_text("data/\n")
    (repository / "data").mkdir()
    (repository / "data" / "a.csv").touch()
    resuming.on(LOGS, Reply(stream=end(status="failed", exit_code=1, reason="exit-code")))
    resuming.on("GET …/runs/odd-cat-1", Reply(body=a_run(repository=str(repository))))
    cause = {"job": "train", "exit_code": 1, "tail": ["cat: data/a.csv: No such file or directory"]}
    resuming.on("GET …/runs/odd-cat-1/explain", Reply(body={"root_cause": cause}))

    assert "data/a.csv is here, but" in dstack("resume", OLD, *words).err


def test_local_changes_are_shipped(resuming: StubApi, dstack: Dstack, repository: Path) -> None:
    assert dstack("restart", OLD, "--with-local-changes", "-d").code == 0
    changes = sent(resuming)["changes"]
    assert changes["files"] == {".dstack/workflows.yaml": (repository / ".dstack/workflows.yaml").read_text()}
    assert changes["repository"]["key"] == str(repository)
    assert changes["code"]["files"] == 2
    assert sent(resuming)["python"]["version"]


def test_code_that_the_server_lost_is_sent_again(resuming: StubApi, store: Store, dstack: Dstack) -> None:
    resuming.on(
        RESUME, error(409, "code-missing", "not in the store"), Reply(201, a_run(status="queued", status_text="Queued"))
    )
    assert dstack("resume", OLD, "--with-local-changes", "-d").code == 0
    first, second = resuming.named(RESUME)
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]


def test_a_repository_alone_is_doubted(resuming: StubApi, dstack: Dstack) -> None:
    done = dstack("resume", OLD, "--repo", ".")
    assert (done.code, "`--with-local-changes`" in done.err) == (2, True)
    assert not resuming.named(RESUME)


def test_the_plan_says_what_begins_where(resuming: StubApi, dstack: Dstack) -> None:
    begin = {"job": "train", "path": "model", "from": OLD, "attempt": 2, "at": 0, "files": 2, "size": 2048}
    steps = [
        {"name": "prepare", "action": "reuse", "from": OLD, "artifacts": ["data"]},
        {"name": "train", "action": "run", "needs": ["prepare"], "provider": "bash", "jobs": 2,
         "reused": [{"job": "train-0", "from": OLD}], "begins": [begin]},
    ]  # fmt: skip
    resuming.on(PLAN, Reply(body={"workflow": "train", "steps": steps}))
    done = dstack("resume", OLD, "--plan")
    assert done.code == 0
    assert "train: 2 steps, 1 to run, 1 reused\n" in done.out
    assert f"  reused     train-0 from {OLD}\n" in done.out
    assert f"  begins     train with model of {OLD} as of 1970-01-01 (2 files, 2KiB)\n" in done.out
    assert json.loads(dstack("resume", OLD, "--plan", "--json").out)[0]["steps"] == steps
    assert not resuming.named(RESUME)


@pytest.mark.parametrize(
    ("instead", "words"),
    [
        ("asked", ""),
        ("empty", ", which holds no file"),
        ("lost", ", which is not whole in the store any more"),
        ("newer", ""),
    ],
)
def test_the_plan_names_a_snapshot_that_is_not_the_last(
    instead: str, words: str, resuming: StubApi, dstack: Dstack
) -> None:
    begin = {"job": "train", "path": "model", "from": OLD, "attempt": 2, "at": 0, "files": 2, "size": 2048}
    begin |= {"manifest_id": "ab" * 32, "instead": instead}
    steps = [{"name": "train", "action": "run", "provider": "bash", "begins": [begin]}]
    resuming.on(PLAN, Reply(body={"workflow": "train", "steps": steps}))
    done = dstack("resume", OLD, "--plan", "--at", "ab" * 6)
    assert f" (2 files, 2KiB): snapshot abababababab, not its last{words}\n" in done.out
    assert sent(resuming, PLAN)["snapshot"] == "ab" * 6


@pytest.mark.parametrize(
    ("when", "at", "snapshot"),
    [("2022-07-01T12:00+00:00", 1656676800_000_000, None), ("0123abcd", None, "0123abcd")],
)
@pytest.mark.parametrize("words", [["resume", OLD], ["restart", OLD, "train"]])
def test_to_go_back_is_asked_for_by_a_time_or_a_snapshot(
    words: list[str], when: str, at: int | None, snapshot: str | None, resuming: StubApi, dstack: Dstack
) -> None:
    assert dstack(*words, "--at", when, "-d").code == 0
    assert (sent(resuming)["at"], sent(resuming)["snapshot"]) == (at, snapshot)


def test_to_go_back_and_to_begin_with_nothing_is_doubted(resuming: StubApi, dstack: Dstack) -> None:
    done = dstack("resume", OLD, "--at", "5m", "--fresh")
    assert (done.code, "give one of them" in done.err) == (2, True)
    assert "`yesterday` is neither" in dstack("resume", OLD, "--at", "yesterday").err
    assert not resuming.calls


def test_what_is_wrong_is_shown_or_told_to_programs(resuming: StubApi, dstack: Dstack) -> None:
    wrong = {"severity": "error", "file": None, "message": "`epochs` must be a whole number, not `x`"}
    resuming.on(RESUME, error(422, "invalid", "wrong", diagnostics=[wrong]))
    assert dstack("resume", OLD, "--set", "epochs=x").err == "error: `epochs` must be a whole number, not `x`\n"
    done = dstack("resume", OLD, "--set", "epochs=x", "--json")
    assert (done.code, json.loads(done.out)) == (2, [wrong])


def test_a_tag_names_the_run(resuming: StubApi, dstack: Dstack) -> None:
    resuming.on("GET …/tags", Reply(body={"items": [{"name": "v1", "workflow": "train", "run": OLD}], "next": None}))
    assert dstack("resume", ":v1", "-d").code == 0
    assert sent(resuming)["restart"] is False


def test_where_the_output_of_reused_jobs_is(stub: StubApi, dstack: Dstack) -> None:
    reused = a_job("prepare", reused_from="job_1", reused_run=OLD)
    stub.on("GET …/runs/odd-cat-1", Reply(body=a_run(jobs=[reused, a_job("train")])))
    stub.on(LOGS, Reply(stream=end()))
    assert dstack("logs", "odd-cat-1", "prepare").err == f"prepare is reused; its output: dstack logs {OLD} prepare\n"
    assert dstack("logs", "odd-cat-1", "train").err == ""


def test_a_run_says_what_it_follows(stub: StubApi, dstack: Dstack) -> None:
    reused = a_job("prepare", status_text="Reused", reused_from="job_1", reused_run=OLD)
    stub.on("GET …/runs/odd-cat-1", Reply(body=a_run(jobs=[reused], resumed_from=OLD)))
    shown = dstack("runs", "odd-cat-1").out
    assert f"\nfollows {OLD}\n" in shown
    assert f"Reused from {OLD}" in shown
