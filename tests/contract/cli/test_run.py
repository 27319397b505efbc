"""`dstack run` against a server that misbehaves on demand."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dstack.client import tree
from dstack.snapshots.catalog import MemoryCatalog
from dstack.snapshots.interfaces import PackIndex
from tests.contract.cli.conftest import Dstack, a_job, a_run
from tests.support.stub_api import PROJECT, Call, Reply, StubApi, error, frames, log

LOGS = "GET …/runs/odd-cat-1/logs"


class Store:
    """The store's calls, answered from memory."""

    def __init__(self, stub: StubApi) -> None:
        self.blobs: dict[str, bytes] = {}
        self.catalog = MemoryCatalog()
        for name in ("missing", "add", "sign"):
            stub.on(f"POST …/store/{name}", getattr(self, f"_{name}"))
        self._stub = stub

    def _missing(self, call: Call) -> Reply:
        ids = msgspec.msgpack.decode(call.body, type=list[bytes])
        return Reply(body=msgspec.msgpack.encode(list(self.catalog.missing(ids))))

    def _add(self, call: Call) -> Reply:
        packs = msgspec.msgpack.decode(call.body, type=list[PackIndex])
        self.catalog.add(packs)
        return Reply(body=msgspec.msgpack.encode(len(packs)))

    def _sign(self, call: Call) -> Reply:
        asked = msgspec.msgpack.decode(call.body)
        signed = []
        for key in asked["keys"]:
            target = f"{PROJECT}/store/blobs/{key}"
            self._stub.on(f"PUT {target}", self._put)
            signed.append({"method": asked["method"], "url": target, "headers": [], "expires": 2**60})
        return Reply(body=msgspec.msgpack.encode(signed))

    def _put(self, call: Call) -> Reply:
        self.blobs[call.path] = call.body
        return Reply(body=msgspec.msgpack.encode(True))


@pytest.fixture
def store(stub: StubApi) -> Store:
    return Store(stub)


@pytest.fixture
def accepting(stub: StubApi, store: Store) -> StubApi:
    stub.on("POST …/runs", Reply(201, a_run(status="queued", jobs=[a_job("train", "queued")])))
    return stub


def end(**more: Any) -> list[bytes]:
    return frames({"t": "end", "run": a_run(**more)})


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


def test_the_plan_runs_nothing(accepting: StubApi, dstack: Dstack) -> None:
    steps = [
        {"name": "prepare", "action": "reuse", "from": "old-cow-2", "tag": "latest", "artifacts": ["data"]},
        {"name": "mend", "action": "skip", "why": "its condition is false: `failed()`", "provider": "bash"},
        {"name": "train", "action": "run", "provider": "bash", "needs": ["prepare:latest", "mend"],
         "requirements": "1 CPU", "commands": ["python train.py"], "artifacts": ["out"], "jobs": 2,
         "env": {"KEY": "${{ secrets.KEY }}"}, "variables": {"lr": {"value": 0.1, "source": "command line"}},
         "policy": {"condition": "not failed()", "timeout": 90, "fail_fast": True, "continue_on_failure": True,
                    "retry": {"on": ["oom"], "max": 2, "backoff": 1}}},
        {"name": "all", "action": "run", "provider": "bash", "needs": ["train", "mend", "prepare:latest"]},
    ]  # fmt: skip
    code = {"files": 3, "size": 2048, "content_id": "ab"}
    accepting.on("POST …/plan", Reply(body={"workflow": "all", "steps": steps, "code": code}))
    done = dstack("run", "--plan", "all")
    assert done.code == 0
    summary, sizes, rest = done.out.split("\n", 2)
    assert summary == "all: 4 steps, 2 to run, 1 reused, 1 skipped"
    assert re.fullmatch(r"code: 3 files, 2KiB, \d+B of it new to the server", sizes)
    assert rest == (
        "\n"
        "all: run\n"
        "├─ train: run\n"
        "│  ├─ prepare: reuse from old-cow-2 (tag latest)\n"
        "│  └─ mend: skip, its condition is false: `failed()`\n"
        "├─ mend: skip, its condition is false: `failed()`\n"
        "└─ prepare: reuse from old-cow-2 (tag latest)\n\n"
        "prepare: reuse from old-cow-2 (tag latest)\n"
        "  artifacts  data\n\n"
        "mend: skip, its condition is false: `failed()`\n"
        "  provider   bash\n\n"
        "train: run\n"
        "  provider   bash\n"
        "  jobs       2\n"
        "  after      prepare:latest, mend\n"
        "  needs      1 CPU\n"
        "  artifacts  out\n"
        "  if         not failed()\n"
        "  timeout    90 s\n"
        "  retry      at most 2 times, from 1 s on: oom\n"
        "  a failure  stops its other jobs and counts as a success\n"
        "  env        KEY=${{ secrets.KEY }}\n"
        "  variable   lr = 0.1  (command line)\n"
        "  $          python train.py\n\n"
        "all: run\n"
        "  provider   bash\n"
        "  after      train, mend, prepare:latest\n"
    )
    assert not accepting.named("POST …/runs")
    [plan] = json.loads(dstack("run", "--plan", "all", "--json").out)
    assert plan["code"].pop("sent") >= 0
    assert plan["code"] == code
    assert plan["steps"] == steps


def test_a_large_plan_is_not_drawn_and_repetitions_are_named_only(accepting: StubApi, dstack: Dstack) -> None:
    def planned(size: int) -> str:
        steps = [
            {"name": f"w{at}", "action": "run", "needs": [f"w{need}" for need in (at - 1, at - 2) if need >= 0]}
            for at in range(size)
        ]
        accepting.on("POST …/plan", Reply(body={"workflow": f"w{size - 1}", "steps": steps}))
        return dstack("run", "--plan", "train").out

    assert planned(5).split("\n\n")[1].splitlines() == [
        "w4: run",
        "├─ w3: run",
        "│  ├─ w2: run",
        "│  │  ├─ w1: run",
        "│  │  │  └─ w0: run",
        "│  │  └─ w0: run",
        "│  └─ w1 (above)",
        "└─ w2 (above)",
    ]
    assert "├─" not in planned(100)


def test_without_a_name_the_workflows_are_listed(accepting: StubApi, dstack: Dstack) -> None:
    known = [
        {
            "name": "train", "provider": "bash", "file": ".dstack/workflows.yaml", "line": 2, "help": "Usage: x",
            "variables": {
                "lr": {"value": 0.1, "source": ".dstack/variables.yaml:3"},
                "n": {"value": None, "source": ".dstack/variables.yaml:4", "required": True, "type": "int", "min": 1,
                      "max": 9, "choices": [1, 2], "help": "How many."},
                "flag": {"value": True, "source": ".dstack/variables.yaml:5", "type": "bool"},
            },
        }
    ]  # fmt: skip
    options = [
        {"option": "-p, --ports N", "help": "give it ports"},
        {"option": "    --cpu N", "help": "ask for processors"},
    ]
    described = {"usage": None, "options": options}
    accepting.on("POST …/validate", Reply(body={"diagnostics": [], "workflows": known, "described": described}))
    done = dstack("run")
    assert done.code == 0
    assert "train     bash      .dstack/workflows.yaml:2  Usage: x\n" in done.out
    assert dstack("workflows").out == done.out
    assert json.loads(dstack("workflows", "--json").out) == known
    done = dstack("run", "train", "--help")
    assert done.out.startswith("Usage: dstack run")
    assert done.out.endswith(
        "\nUsage: x\n\nVariables of train:\n"
        "  --lr VALUE  0.1  (.dstack/variables.yaml:3)\n"
        "  --n INT  has to be given; at least 1; at most 9; one of 1, 2  (.dstack/variables.yaml:4)\n"
        "      How many.\n"
        "  --flag  true  (.dstack/variables.yaml:5)\n"
        "\nOptions that override the file:\n"
        "  -p, --ports N  give it ports\n"
        "      --cpu N    ask for processors\n"
    )
    assert accepting.named("POST …/validate")[-1].json["describe"] == "train"
    accepting.on("POST …/validate", Reply(body={"diagnostics": [], "workflows": known, "described": None}))
    done = dstack("run", "trian", "--help")
    assert (done.code, "did you mean `train`?" in done.err) == (2, True)


def test_outside_of_a_repository(
    accepting: StubApi, dstack: Dstack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    accepting.on("POST …/validate", Reply(body={"diagnostics": [], "workflows": [], "providers": ["bash"]}))
    done = dstack("run", "train")
    assert done.code == 2
    assert f"no .dstack/workflows.yaml in {tmp_path}" in done.err
    assert not accepting.named("POST …/runs"), "no code of a folder that is no repository was sent"
    assert dstack("run").code == 2


def test_a_provider_runs_in_any_folder(
    accepting: StubApi, dstack: Dstack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    accepting.on("POST …/validate", Reply(body={"diagnostics": [], "workflows": [], "providers": ["bash"]}))
    accepting.on(LOGS, Reply(stream=[*log("train", 0, b"hello\n"), *end()]))
    done = dstack("run", "bash", "-c", "echo hello")
    assert (done.code, done.out) == (0, "hello\n")
    (sent,) = accepting.named("POST …/runs")
    assert (sent.json["workflow"], sent.json["args"], sent.json["files"]) == ("bash", ["-c", "echo hello"], {})
    assert sent.json["repository"]["root"] == str(tmp_path.resolve())
    assert dstack("run", "bash", "-c", "true", "--repo", str(tmp_path)).code == 0


def test_a_misspelt_provider_outside_of_a_repository(
    stub: StubApi, dstack: Dstack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stub.on("POST …/validate", Reply(body={"diagnostics": [], "workflows": [], "providers": ["bash", "python"]}))
    done = dstack("run", "pyhton", "train.py")
    assert (done.code, "hint: did you mean `python`?" in done.err) == (2, True)
    done = dstack("run", "train")
    assert (done.code, "`dstack init` begins a new one" in done.err) == (2, True)


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
    assert "No such file" in dstack("run", "--env-file", "missing", "train").err
