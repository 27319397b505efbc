"""`dstack run` against a server that misbehaves on demand."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from dstack.client import tree
from tests.contract.cli.conftest import LOGS, Dstack, Store, a_job, a_run, end
from tests.support.stub_api import Call, Reply, StubApi, error, frames, log


def test_a_run_is_submitted_whole_and_followed(accepting: StubApi, dstack: Dstack, repository: Path) -> None:
    accepting.on(LOGS, Reply(stream=[*log("train", 0, b"epoch 1\r\n"), *log("train", 9, b"\x1b[32mdone\xff"), *end()]))
    done = dstack("run", "-t", "v1", "train", "--lr", "0.1")
    assert done.code == 0
    [call] = accepting.named("POST …/runs")
    sent = call.json
    assert (sent["workflow"], sent["args"], sent["tags"], sent["user"]) == ("train", ["--lr", "0.1"], ["v1"], "me")
    assert sent["files"] == {".dstack/workflows.yaml": (repository / ".dstack/workflows.yaml").read_text()}
    assert sent["repository"]["key"] == str(repository)
    assert (sent["code"]["files"], len(sent["code"]["manifest_id"])) == (2, 64)
    assert "PATH" in sent["environment"]
    assert len(call.headers["idempotency-key"]) == 32
    assert done.err.startswith("RUN        WORKFLOW  STATUS  TAG\nodd-cat-1  train     Queued  v1\n")
    assert done.err.endswith("odd-cat-1 done in 12 s\n")


def test_the_bytes_of_a_job_reach_stdout_as_they_are(accepting: StubApi, dstack: Dstack) -> None:
    content = bytes(range(256)) * 3000
    pieces = [log("train", at, content[at : at + 50_001]) for at in range(0, len(content), 50_001)]
    accepting.on(LOGS, Reply(stream=[*(part for piece in pieces for part in piece), *end()]))
    assert dstack("run", "train").out.encode("utf-8", "surrogateescape") == content


def test_the_exit_code_is_the_runs(accepting: StubApi, dstack: Dstack) -> None:
    ended = {"status": "failed", "exit_code": 7, "reason_text": "train exited with code 7"}
    accepting.on(LOGS, Reply(stream=end(**ended)))
    done = dstack("run", "train")
    assert done.code == 7
    assert done.err.endswith("odd-cat-1 failed: train exited with code 7\n  why: dstack explain odd-cat-1\n")


def test_results_are_named_at_the_end(accepting: StubApi, dstack: Dstack) -> None:
    saved = {"path": "checkpoint", "job": "train", "files": 2, "size": 2048, "partial": True}
    accepting.on(LOGS, Reply(stream=end(jobs=[a_job("train", artifacts=[saved])])))
    done = dstack("run", "train")
    assert "  checkpoint of train: 2 files, 2KiB, partial\n  fetch: dstack artifacts download odd-cat-1\n" in done.err


@pytest.mark.parametrize(
    ("partial", "words"),
    [(False, "0 files, 0B (nothing was written there: is the path right?)\n"), (True, "0 files, 0B, partial\n")],
)
def test_an_empty_artifact_is_doubted_where_the_job_was_done(
    partial: bool, words: str, accepting: StubApi, dstack: Dstack
) -> None:
    saved = {"path": "out", "job": "train", "files": 0, "size": 0, "partial": partial}
    accepting.on(LOGS, Reply(stream=end(jobs=[a_job("train", artifacts=[saved])])))
    assert f"  out of train: {words}" in dstack("run", "train").err


def test_a_cut_stream_goes_on_from_the_cursor(accepting: StubApi, dstack: Dstack) -> None:
    accepting.on(
        LOGS,
        Reply(stream=log("train", 0, b"one\n"), cut=True),
        Reply(close=True),
        # More than was asked for: nothing may be shown twice.
        Reply(stream=log("train", 0, b"one\ntwo\n"), cut=True),
        error(503, "unavailable", "starting"),
        Reply(stream=log("train", 8, b"three\n")),
        Reply(stream=[*log("train", 14, b"four\n"), *end(status="failed", exit_code=3)]),
    )
    done = dstack("run", "train")
    assert (done.code, done.out) == (3, "one\ntwo\nthree\nfour\n")
    cursors = [json.loads(call.query["cursor"]) for call in accepting.named(LOGS) if "cursor" in call.query]
    assert cursors[0] == {"train": [1, 4]}
    assert cursors[-1] == {"train": [1, 14]}


def test_a_piece_cut_in_the_middle_is_not_lost(accepting: StubApi, dstack: Dstack) -> None:
    head = frames({"t": "log", "job": "train", "attempt": 1, "offset": 0, "n": 8})

    def rest(call: Call) -> Reply:
        if "cursor" not in call.query:
            return Reply(stream=[*head, b"one\nt"], cut=True)
        assert json.loads(call.query["cursor"]) == {"train": [1, 5]}
        return Reply(stream=[*log("train", 5, b"wo\n"), *end()])

    accepting.on(LOGS, rest)
    assert dstack("run", "train").out == "one\ntwo\n"


def test_a_new_attempt_starts_its_log_anew(accepting: StubApi, dstack: Dstack) -> None:
    stream = [*log("train", 0, b"first\n"), *log("train", 0, b"second\n", attempt=2), *log("train", 6, b"late\n")]
    accepting.on(LOGS, Reply(stream=[*stream, *end()]))
    done = dstack("run", "train")
    assert done.out == "first\nsecond\n"
    assert "train: attempt 2\n" in done.err


def test_lines_of_several_jobs_carry_their_names(accepting: StubApi, dstack: Dstack) -> None:
    def job(name: str, status: str) -> bytes:
        return frames({"t": "job", "job": name, **a_job(name, status)})[0]

    stream = [
        job("prepare", "running"),
        job("train", "waiting"),
        *log("prepare", 0, b"data\n"),
        job("prepare", "done"),
        *log("train", 0, b"epoch 1\nepoch 2"),
        job("train", "done"),
    ]
    accepting.on(LOGS, Reply(stream=[*stream, *end()]))
    done = dstack("run", "train")
    assert done.out == "prepare | data\ntrain   | epoch 1\ntrain   | epoch 2\n"
    assert "prepare: done" in done.err


def test_a_submission_is_repeated_with_the_same_key(accepting: StubApi, dstack: Dstack) -> None:
    accepting.on("POST …/runs", Reply(close=True), Reply(close=True), Reply(200, a_run(status="queued")))
    accepting.on(LOGS, Reply(stream=end()))
    assert dstack("run", "train").code == 0
    assert len({call.headers["idempotency-key"] for call in accepting.named("POST …/runs")}) == 1
    assert len(accepting.named("POST …/runs")) == 3


class _Later:
    """The clock, a minute ahead."""

    def time_ns(self) -> int:
        return time.time_ns() + 60 * 10**9


def test_unchanged_code_is_not_looked_at_again(
    accepting: StubApi, dstack: Dstack, store: Store, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepting.on(LOGS, Reply(stream=end()))
    for text in ("print(1)\n", "print(2)\n"):
        (repository / "train.py").write_text(text)
        # A change counts as settled two seconds later; the clock is turned on instead of waiting.
        monkeypatch.setattr(tree, "time", _Later())
        dstack("run", "train")
        accepting.calls.clear()
        dstack("run", "train")
        assert not [call for call in accepting.calls if "/store/" in call.path]
    assert len(store.blobs) == 2


def test_code_that_the_server_lost_is_sent_again(accepting: StubApi, dstack: Dstack, store: Store) -> None:
    accepting.on("POST …/runs", error(409, "code-missing", "no such snapshot"), Reply(201, a_run(status="queued")))
    accepting.on(LOGS, Reply(stream=end()))
    assert dstack("run", "train").code == 0
    assert len(accepting.named("POST …/runs")) == 2


def test_everything_wrong_is_shown_at_once(accepting: StubApi, dstack: Dstack) -> None:
    problems = [
        {"severity": "error", "file": ".dstack/workflows.yaml", "line": 3, "column": 5, "message": "unknown key `x`",
         "source": "    x: 1", "hint": "did you mean `y`?"},
        {"severity": "error", "file": None, "message": "unknown option --z"},
    ]  # fmt: skip
    accepting.on("POST …/runs", error(422, "invalid", "2 errors", diagnostics=problems))
    done = dstack("run", "train", "--z", "1")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        ".dstack/workflows.yaml:3:5: unknown key `x`\n        x: 1\n        ^\n  hint: did you mean `y`?\n"
        "error: unknown option --z\n"
    )


@pytest.mark.parametrize("more", [[], ["--plan"], ["-d"]])
def test_everything_wrong_is_data_too(accepting: StubApi, dstack: Dstack, more: list[str]) -> None:
    problems = [{"severity": "error", "file": "w.yaml", "line": 3, "column": 5, "message": "no", "hint": "yes"}] * 2
    for route in ("POST …/runs", "POST …/plan"):
        accepting.on(route, error(422, "invalid", "2 errors", diagnostics=problems))
    done = dstack("run", "--json", *more, "train")
    assert (done.code, json.loads(done.out), done.err) == (2, problems, "")


def test_detached(accepting: StubApi, dstack: Dstack) -> None:
    done = dstack("run", "-d", "train")
    assert (done.code, done.out) == (0, "odd-cat-1\n")
    assert not accepting.named(LOGS)
    done = dstack("run", "-d", "--json", "train")
    assert [run["name"] for run in json.loads(done.out)] == ["odd-cat-1"]


def test_detached_from_a_run_that_can_never_run(accepting: StubApi, dstack: Dstack) -> None:
    failed = {"status": "failed", "exit_code": 120, "reason_text": "train fits no runner that there is: no GPU"}
    accepting.on("POST …/runs", Reply(201, a_run(**failed)))
    done = dstack("run", "-d", "train")
    assert (done.code, done.out) == (120, "odd-cat-1\n")
    assert done.err == "odd-cat-1 failed: train fits no runner that there is: no GPU\n"


def test_detached_before_anybody_knows_whether_it_can_run(accepting: StubApi, dstack: Dstack) -> None:
    """A server that was just started has no runner yet: the first one's word is waited for."""
    accepting.on("POST …/runs", Reply(201, a_run(status="queued", undecided=True)))
    accepting.on(LOGS, Reply(stream=end(status="failed", exit_code=120, reason_text="no GPU")))
    done = dstack("run", "-d", "train")
    assert (done.code, done.err) == (120, "odd-cat-1 failed: no GPU\n")
    queued, assigned = ({"t": "job", "job": "train", "status": status} for status in ("queued", "assigned"))
    accepting.on(LOGS, Reply(stream=frames(queued, assigned), cut=True))
    accepting.on("GET …/runs/odd-cat-1", Reply(body=a_run(status="running")))
    done = dstack("run", "-d", "--json", "train")
    assert (done.code, json.loads(done.out)[0]["status"]) == (0, "running")
    accepting.on(LOGS, error(503, "unavailable", "busy"))
    assert dstack("run", "-d", "train").code == 0, "it was accepted"


def test_warnings_are_shown_before_anything_runs(accepting: StubApi, dstack: Dstack) -> None:
    warning = {
        "severity": "warning", "file": None, "line": None, "column": None, "source": "--epoch",
        "message": "`--epoch` goes to the program of `train`", "hint": "did you mean `--epochs`?",
    }  # fmt: skip
    accepting.on("POST …/runs", Reply(201, a_run(status="queued", warnings=[warning])))
    accepting.on(LOGS, Reply(stream=[*log("train", 0, b"hello\n"), *end()]))
    done = dstack("run", "train", "--epoch", "3")
    assert done.err.startswith(
        "warning: `--epoch` goes to the program of `train`\n  hint: did you mean `--epochs`?\nRUN "
    )
    assert "did you mean `--epochs`?" in dstack("run", "-d", "train", "--epoch", "3").err


def test_tags_that_were_asked_for_are_told_of_at_both_ends(accepting: StubApi, dstack: Dstack) -> None:
    accepting.on(LOGS, Reply(stream=end(tags=["v1"])))
    done = dstack("run", "-t", "v1", "train")
    assert [line.split()[-1] for line in done.err.splitlines()[:2]] == ["TAG", "v1"]
    assert done.err.endswith("  tagged: v1\n")
    accepting.on(LOGS, Reply(stream=end(status="failed", reason_text="no")))
    assert "  not tagged v1: a tag is set when a run is done" in dstack("run", "-t", "v1", "train").err


def test_an_option_of_ours_gives_way_to_a_variable(accepting: StubApi, dstack: Dstack, repository: Path) -> None:
    (repository / ".dstack" / "variables.yaml").write_text("variables:\n  train:\n    pull: 1\n")
    accepting.on(LOGS, Reply(stream=end()))
    dstack("run", "train", "--pull", "3", "--yes")
    assert accepting.named("POST …/runs")[0].json["args"] == ["--pull", "3"]


def test_json_keeps_stdout_for_the_run(accepting: StubApi, dstack: Dstack) -> None:
    accepting.on(LOGS, Reply(stream=[*log("train", 0, b"line\n"), *end(status="failed", exit_code=9)]))
    done = dstack("run", "--json", "train")
    assert done.code == 9
    assert json.loads(done.out)[0]["exit_code"] == 9
    assert "line\n" in done.err


def test_nobody_answers(dstack: Dstack, stub: StubApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSTACK_SERVER", "nonsense")
    done = dstack("run", "train")
    assert done.code == 2
    assert "DSTACK_SERVER=nonsense is not an address" in done.err


def test_values_go_beside_the_arguments(
    accepting: StubApi, dstack: Dstack, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arguments and files are stored and shown; values are not."""
    monkeypatch.setenv("HF_TOKEN", "hf_s3cret")
    monkeypatch.setenv("ASKED", "for by the file")
    monkeypatch.setenv("ANOTHER", "that nobody asked for")
    monkeypatch.delenv("UNSET", raising=False)
    (repository / ".env").write_text("# mine\nexport WANDB_KEY='w s3cret'\n")
    text = "workflows:\n  - name: train\n    provider: bash\n    env: [ASKED, X=1]\n"
    (repository / ".dstack/workflows.yaml").write_text(text)
    done = dstack("run", "-d", "-e", "HF_TOKEN", "--env-file", ".env", "train", "-e", "UNSET", "-eA=b=c", "--lr", "1")
    assert done.code == 0, done.err
    assert "warning: .env itself goes with the code" in done.err
    sent = accepting.named("POST …/runs")[0].json
    named = ["-e", "WANDB_KEY", "-e", "HF_TOKEN", "-e", "UNSET", "-e", "A"]
    assert sent["args"] == [*named, "--lr", "1"]
    assert sent["values"] == {
        "HF_TOKEN": "hf_s3cret", "WANDB_KEY": "w s3cret", "A": "b=c", "ASKED": "for by the file",
    }  # fmt: skip
    del sent["values"]
    assert "s3cret" not in json.dumps(sent)
    assert "that nobody asked for" not in json.dumps(sent)


def test_a_file_of_values_that_is_ignored_does_not_go_along(
    accepting: StubApi, dstack: Dstack, repository: Path, tmp_path: Path
) -> None:
    (repository / ".dstackignore").write_text(".env\n")
    (repository / ".env").write_text("A=1\n")
    (tmp_path / "elsewhere").write_text("B=2\n")
    done = dstack("run", "-d", "--env-file", ".env", "--env-file", str(tmp_path / "elsewhere"), "train")
    assert (done.code, "goes with the code" in done.err) == (0, False)
    assert accepting.named("POST …/runs")[0].json["values"] == {"A": "1", "B": "2"}


def test_wrong_values_are_told_without_showing_them(dstack: Dstack, repository: Path) -> None:
    (repository / "vars").write_text("A=1\nB C=s3cret\n'D\n")
    done = dstack("run", "--env-file", "vars", "train")
    assert done.code == 2
    assert [line[:15] for line in done.err.splitlines()[:2]] == ["error: vars:2:1", "vars:3:1: a lin"]
    assert "s3cret" not in done.err
    done = dstack("run", "train", "-e", "1X=s3cret")
    assert (done.code, "`1X` cannot name" in done.err, "s3cret" in done.err) == (2, True, False)
    missing = dstack("run", "--env-file", "missing", "train").err
    assert "No such file" in missing
    assert "hint: correct the path" in missing
    assert "NAME=VALUE" not in missing
