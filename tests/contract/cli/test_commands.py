"""What each command asks the server for, and what it makes of the answer."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest

from tests.contract.cli.conftest import Dstack, a_job, a_run
from tests.support.stub_api import Call, Reply, StubApi, error, frames, log


def ask(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a person at a terminal who answers."""
    monkeypatch.setattr("os.isatty", lambda fd: fd in (0, 2))
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))


class TestRuns:
    def test_the_unfinished_and_the_newest_by_default(self, stub: StubApi, dstack: Dstack) -> None:
        newest = [a_run(f"new-{at}", submitted_at=(1000 - at) * 10**6) for at in range(10)]
        old = a_run("old-but-running", "running", submitted_at=1)

        def answer(call: Call) -> Reply:
            if call.query.get("active"):
                return Reply(body={"items": [old], "next": None})
            assert call.query["limit"] == "10"
            return Reply(body={"items": newest, "next": "more"})

        stub.on("GET …/runs", answer)
        done = dstack("runs", "--json")
        assert [run["name"] for run in json.loads(done.out)] == [*(run["name"] for run in newest), "old-but-running"]

    def test_of_the_repository_one_is_in(
        self, stub: StubApi, dstack: Dstack, repository: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mine, other = a_run("mine", repository=str(repository)), a_run("other", "running", repository="x")

        def answer(call: Call) -> Reply:
            items = [mine, other] if "repository" not in call.query else [mine]
            wanted = [item for item in items if not call.query.get("active") or item["status"] == "running"]
            return Reply(body={"items": wanted, "next": None})

        stub.on("GET …/runs", answer)
        done = dstack("runs", "-n", "3")
        assert stub.calls[0].query == {"repository": str(repository), "limit": "3"}
        assert ("other" in done.out, "REPOSITORY" in done.out) == (False, False)
        assert done.err == "1 unfinished run of other repositories is not shown: dstack runs -a\n"
        assert [run["name"] for run in json.loads(dstack("runs", "--json").out)] == ["mine"]
        monkeypatch.chdir(repository.parent)
        done = dstack("runs")
        assert [line.split()[:2] for line in done.out.splitlines()] == [
            ["RUN", "REPOSITORY"], ["mine", str(repository)], ["other", "x"],
        ]  # fmt: skip
        assert done.err == ""

    def test_why_a_run_waits(self, stub: StubApi, dstack: Dstack) -> None:
        why = "waits on runner box behind train of odd-cat-2"
        run = a_run(status="running", status_text="Queued...", why_waiting=why, exit_code=None)
        stub.on("GET …/runs", Reply(body={"items": [run], "next": None}))
        assert f"Queued... {why}" in dstack("runs", "-a").out

    def test_the_diff(self, stub: StubApi, dstack: Dstack) -> None:
        stub.on("GET …/runs/odd-cat-1/diff", Reply(body=b"--- a/x\n+++ b/x\n+\xc3\xa9\n"))
        stub.on("GET …/runs/odd-cat-1", Reply(body=a_run(commit="c0ffee" * 4, branch="main")))
        done = dstack("runs", "odd-cat-1", "--diff")
        assert done.out == "--- a/x\n+++ b/x\n+é\n"
        assert done.err == "odd-cat-1 ran the code of commit c0ffeec0ff of main, and these changes:\n"
        assert dstack("runs", "--diff").code == 2
        stub.on("GET …/runs/odd-cat-1/diff", Reply(body=b""))
        done = dstack("runs", "odd-cat-1", "--diff")
        assert (done.code, done.out, "without changes" in done.err) == (0, "", True)

    def test_all_pages(self, stub: StubApi, dstack: Dstack) -> None:
        def page(call: Call) -> Reply:
            cursor = call.query.get("cursor")
            return Reply(body={"items": [a_run("b")], "next": None} if cursor else {"items": [a_run("a")], "next": "x"})

        stub.on("GET …/runs", page)
        for words in (["runs", "-a", "--json"], ["ps", "-a", "--json"], ["status", "-a", "--json"]):
            assert [run["name"] for run in json.loads(dstack(*words).out)] == ["a", "b"]
        assert [run["name"] for run in json.loads(dstack("runs", "-a", "-n", "1", "--json").out)] == ["a"]

    def test_the_table(self, stub: StubApi, dstack: Dstack) -> None:
        now = int(time.time() * 1e6)
        saved = [{"path": "data"}]
        jobs = [a_job("prepare", artifacts=saved), a_job("train", "failed")]
        run = a_run(status="failed", reason_text="train exited with code 7", tags=["v1"], jobs=jobs, submitted_at=now)
        stub.on("GET …/runs", Reply(body={"items": [run], "next": None}))
        assert dstack("runs", "-a").out == (
            "RUN        WORKFLOW  STATUS                            JOBS  ARTIFACTS  SUBMITTED  TAG\n"
            "odd-cat-1  train     Failed: train exited with code 7  1/2   data       now        v1\n"
        )

    def test_one_run_with_its_jobs(self, stub: StubApi, dstack: Dstack) -> None:
        job = a_job("train", attempt=2, runner="box", started_at=10**12, finished_at=10**12 + 3 * 10**6)
        stub.on("GET …/runs/odd-cat-1", Reply(body=a_run(jobs=[job], variables={"lr": 0.1})))
        out = dstack("runs", "odd-cat-1").out
        assert "--lr 0.1\n" in out
        assert out.endswith(
            "JOB    WORKFLOW  STATUS  ATTEMPT  RUNNER  TOOK   ARTIFACTS\n"
            "train  train     Done    2        box     3.0 s\n"
        )

    def test_none(self, stub: StubApi, dstack: Dstack) -> None:
        stub.on("GET …/runs", Reply(body={"items": [], "next": None}))
        done = dstack("runs")
        assert (done.code, done.out) == (0, "")
        assert json.loads(dstack("runs", "--json").out) == []

    def test_an_unknown_run(self, stub: StubApi, dstack: Dstack) -> None:
        stub.on("GET …/runs/x", error(404, "not-found", "there is no run `x`", "did you mean y?"))
        done = dstack("runs", "x")
        assert (done.code, done.err) == (2, "error: there is no run `x`\n  hint: did you mean y?\n")


class TestLogs:
    def test_the_whole_output(self, stub: StubApi, dstack: Dstack) -> None:
        stub.on("GET …/runs/odd-cat-1", Reply(body=a_run()))
        stub.on(
            "GET …/runs/odd-cat-1/logs",
            Reply(stream=[*log("train", 0, b"a\r\nb"), *frames({"t": "end", "run": a_run()})]),
        )
        done = dstack("logs", "odd-cat-1")
        assert (done.code, done.out, done.err) == (0, "a\r\nb", "")
        assert stub.named("GET …/runs/odd-cat-1/logs")[0].query == {"follow": "0"}

    def test_of_one_job_from_a_time_on(self, stub: StubApi, dstack: Dstack) -> None:
        stub.on("GET …/runs/odd-cat-1", Reply(body=a_run(jobs=[a_job("prepare"), a_job("train")])))
        stub.on(
            "GET …/runs/odd-cat-1/logs", Reply(stream=[*log("train", 5, b"x\n"), *frames({"t": "end", "run": a_run()})])
        )
        before = time.time()
        done = dstack("logs", "-f", "--since", "5m", "odd-cat-1", "train")
        assert done.out == "x\n"
        query = stub.named("GET …/runs/odd-cat-1/logs")[0].query
        assert (query["follow"], query["job"]) == ("1", "train")
        assert before - 301 < int(query["since"]) / 1e6 < time.time() - 299

    def test_an_iso_time(self, stub: StubApi, dstack: Dstack) -> None:
        stub.on("GET …/runs/odd-cat-1", Reply(body=a_run()))
        stub.on("GET …/runs/odd-cat-1/logs", Reply(stream=frames({"t": "end", "run": a_run()})))
        dstack("logs", "--since", "2022-07-01T12:00:00+02:00", "odd-cat-1")
        assert stub.named("GET …/runs/odd-cat-1/logs")[0].query["since"] == "1656669600000000"

    def test_as_json_lines(self, stub: StubApi, dstack: Dstack) -> None:
        stub.on("GET …/runs/odd-cat-1", Reply(body=a_run()))
        job = {"t": "job", "job": "train", **a_job("train")}
        first = [*frames(job), *log("train", 0, b"caf\xc3"), *frames({"t": "beat"})]
        # The stream is cut within a character, and what comes again overlaps.
        second = [*frames(job), *log("train", 2, b"f\xc3\xa9\xff\n\xe2\x82"), *frames({"t": "end", "run": a_run()})]
        stub.on("GET …/runs/odd-cat-1/logs", Reply(stream=first, cut=True), Reply(stream=second))
        done = dstack("logs", "--json", "odd-cat-1")
        shown = [json.loads(line) for line in done.out.splitlines()]
        place = {"t": "log", "job": "train", "attempt": 1}
        assert shown == [
            job, {**place, "offset": 0, "text": "caf"}, job, {**place, "offset": 3, "text": "\u00e9\ufffd\n"},
            {**place, "offset": 7, "text": "\ufffd"}, {"t": "end", "run": a_run()},
        ]  # fmt: skip

    def test_mistakes(self, stub: StubApi, dstack: Dstack) -> None:
        stub.on("GET …/runs/odd-cat-1", Reply(body=a_run()))
        assert "did you mean `train`?" in dstack("logs", "odd-cat-1", "trian").err
        done = dstack("logs", "--since", "soon", "odd-cat-1")
        assert (done.code, "`soon` is neither a duration" in done.err) == (2, True)


class TestStop:
    def test_yes(self, stub: StubApi, dstack: Dstack) -> None:
        stub.on("POST …/runs/odd-cat-1/stop", Reply(body=a_run(status="running", message="")))
        done = dstack("stop", "-y", "--abort", "odd-cat-1")
        assert (done.code, done.err) == (0, "odd-cat-1: aborting\n")
        assert stub.named("POST …/runs/odd-cat-1/stop")[0].json == {"abort": True}

    def test_it_asks(self, stub: StubApi, dstack: Dstack, monkeypatch: pytest.MonkeyPatch) -> None:
        stub.on("POST …/runs/odd-cat-1/stop", Reply(body=a_run(message="already finished")))
        ask("n\n", monkeypatch)
        assert dstack("stop", "odd-cat-1").code == 1
        assert not stub.calls
        ask("y\n", monkeypatch)
        assert "odd-cat-1: already finished\n" in dstack("stop", "odd-cat-1").err

    @pytest.mark.parametrize("as_json", [False, True])
    def test_one_of_many_that_cannot_be_asked_keeps_no_other_from_it(
        self, stub: StubApi, dstack: Dstack, as_json: bool
    ) -> None:
        mine = [a_run(name, "running", user="me") for name in ("a-1", "b-1", "c-1")]
        stub.on("GET …/runs", Reply(body={"items": mine, "next": None}))
        for name in ("a-1", "c-1"):
            stub.on(f"POST …/runs/{name}/stop", Reply(body=a_run(name, "running", message="")))
        gone = {"error": {"code": "not-found", "message": "there is no run b-1", "hint": "dstack runs"}}
        stub.on("POST …/runs/b-1/stop", Reply(404, gone))
        done = dstack("stop", "-a", "-y", *(["--json"] if as_json else []))
        asked = ["b-1: not asked to stop: there is no run b-1", "  hint: dstack runs"]
        last = "error: 1 run of 3 could not be asked to stop"
        assert done.code == 1
        assert done.err.splitlines() == (
            [*asked, last] if as_json else ["a-1: stopping", *asked, "c-1: stopping", last]
        )
        assert [run["name"] for run in json.loads(done.out or "[]")] == (["a-1", "c-1"] if as_json else [])

    def test_without_a_terminal_it_does_not_guess(self, stub: StubApi, dstack: Dstack) -> None:
        done = dstack("stop", "odd-cat-1")
        assert (done.code, "dstack stop -y odd-cat-1" in done.err, stub.calls) == (2, True, [])
        done = dstack("stop", "--abort", "odd-cat-1", "train")
        assert done.err == (
            "error: odd-cat-1/train is not aborted without asking, and there is no terminal\n"
            "  hint: dstack stop -y --abort odd-cat-1 train\n"
        )


class TestTags:
    TAG = {"name": "v1", "workflow": "train", "run": "odd-cat-1", "repository": "project", "at": 1, "partial": False}  # noqa: RUF012

    @pytest.mark.parametrize(
        ("words", "name"), [(["v1"], "v1"), (["-n", "v1"], "v1"), ([], "odd-cat-1"), (["v1", "--name", "v1"], "v1")]
    )
    def test_tag(self, stub: StubApi, dstack: Dstack, repository: Path, words: list[str], name: str) -> None:
        stub.on("POST …/tags", Reply(body={"items": [{**self.TAG, "partial": True}]}))
        done = dstack("tag", "odd-cat-1", *words)
        assert (done.code, done.err) == (0, "train:v1 is now odd-cat-1 (partial)\n")
        sent = {"run": "odd-cat-1", "name": name, "force": False}
        assert stub.named("POST …/tags")[0].json == sent

    def test_two_names(self, dstack: Dstack) -> None:
        done = dstack("tag", "odd-cat-1", "a", "-n", "b")
        assert (done.code, "two names" in done.err) == (2, True)

    def test_untag(self, stub: StubApi, dstack: Dstack, repository: Path) -> None:
        stub.on("DELETE …/tags/v1", Reply(body={"items": [self.TAG]}))
        assert dstack("untag", "v1").err == "train:v1 removed; it was odd-cat-1\n"
        assert stub.calls[0].query == {"repository": str(repository)}

    def test_untag_whose_first_answer_was_lost(self, stub: StubApi, dstack: Dstack, repository: Path) -> None:
        stub.on("DELETE …/tags/v1", Reply(close=True), Reply(body={"items": []}))
        done = dstack("untag", "v1")
        assert (done.code, done.err) == (0, "v1 removed\n")
        first, second = stub.named("DELETE …/tags/v1")
        assert first.headers["idempotency-key"] == second.headers["idempotency-key"] != ""

    def test_list(self, stub: StubApi, dstack: Dstack) -> None:
        stub.on("GET …/tags", Reply(body={"items": [self.TAG]}))
        assert dstack("tags", "list").out.startswith("TAG  WORKFLOW  RUN        TAGGED")
        assert json.loads(dstack("tags", "list", "--json").out) == [self.TAG]
        assert "REPOSITORY" in dstack("tags", "list", "-a").out
        assert dstack("tags").out == dstack("tags", "list").out
        assert json.loads(dstack("tags", "--json").out) == [self.TAG]
        assert "REPOSITORY" in dstack("tags", "-a").out
        assert dstack("tags", "--json", "list").code == 2


class TestExplain:
    def test_a_failure(self, stub: StubApi, dstack: Dstack) -> None:
        cause = {"job": "train", "sentence": "train exited with code 7", "tail": ["Traceback", "KeyError"]}
        found = {"summary": "run x failed", "lines": ["1 skipped"], "root_cause": cause, "waiting": []}
        stub.on("GET …/runs/x/explain", Reply(body=found))
        assert dstack("explain", "x").out == (
            "run x failed\n  cause: train exited with code 7\n"
            "  train said last:\n    Traceback\n    KeyError\n  1 skipped\n"
        )
        assert json.loads(dstack("explain", "--json", "x").out) == [found]

    def test_a_waiting_job_is_told_of_once(self, stub: StubApi, dstack: Dstack) -> None:
        waiting = [{"job": "train", "why": "waits for prepare"}, {"job": "eval", "why": "waits for a GPU"}]
        found = {"summary": "run x is queued", "lines": [], "root_cause": None}
        stub.on("GET …/runs/x/explain", Reply(body={**found, "waiting": waiting}))
        assert dstack("explain", "x").out == "run x is queued\n  train waits for prepare\n  eval waits for a GPU\n"


class TestRunsByTheirTags:
    def test_a_tag_of_one_run(self, stub: StubApi, dstack: Dstack) -> None:
        rows = [{"name": "v1", "workflow": name, "run": "x"} for name in ("prepare", "train")]
        stub.on("GET …/tags", Reply(body={"items": rows}))
        stub.on("GET …/runs/x/explain", Reply(body={"summary": "run x is done", "lines": [], "root_cause": None}))
        stub.on("GET …/runs/x/metrics", Reply(body={"items": []}))
        for name in (":v1", "train:v1"):
            assert dstack("explain", name).out == "run x is done\n"
        assert "x has logged no metrics" in dstack("metrics", ":v1").err

    def test_what_names_several_or_none_says_so(self, stub: StubApi, dstack: Dstack) -> None:
        rows = [{"name": "v1", "workflow": "prepare", "run": "x"}, {"name": "v1", "workflow": "train", "run": "y"}]
        stub.on("GET …/tags", Reply(body={"items": rows}))
        assert dstack("logs", ":v1").err == (
            "error: `:v1` names several runs: prepare:v1 is x, train:v1 is y\n"
            "  hint: write one of them, such as `prepare:v1`\n"
        )
        assert dstack("compare", "train:v1", "eval:v1").err == (
            "error: there is no tag `eval:v1` in this repository\n  hint: did you mean `:v1`?\n"
        )
        assert dstack("metrics", ":v2").code == 2


class TestArtifacts:
    ITEM = {"run": "odd-cat-1", "job": "train", "path": "out", "files": 2, "size": 2048, "partial": True, "at": 1}  # noqa: RUF012

    def test_list_by_run_and_by_tag(self, stub: StubApi, dstack: Dstack, repository: Path) -> None:
        stub.on("GET …/artifacts", Reply(body={"items": [self.ITEM]}))
        out = dstack("artifacts", "list", "odd-cat-1").out
        assert [line.split() for line in out.splitlines()] == [
            ["PATH", "JOB", "RUN", "FILES", "SIZE", "SAVED", "NOTE"],
            ["out", "train", "odd-cat-1", "2", "2KiB", "1970-01-01", "partial"],
        ]
        assert json.loads(dstack("artifacts", "list", ":v1", "--json").out) == [self.ITEM]
        assert [call.query for call in stub.calls] == [
            {"run": "odd-cat-1"},
            {"tag": "v1", "repository": str(repository)},
        ]


class TestMistakes:
    def test_an_unknown_command(self, dstack: Dstack) -> None:
        done = dstack("artefacts")
        assert (done.code, done.err) == (
            2,
            "error: there is no command `artefacts`; did you mean `artifacts`?\n  hint: dstack --help\n",
        )

    def test_an_unknown_option(self, dstack: Dstack) -> None:
        done = dstack("runs", "--jsn")
        assert (done.code, "`--jsn`" in done.err, "--json" in done.err) == (2, True, True)

    def test_a_missing_command(self, dstack: Dstack) -> None:
        done = dstack("artifacts")
        assert (done.code, done.err.startswith("Usage: dstack artifacts"), "hint" in done.err) == (2, True, False)

    def test_a_missing_argument(self, dstack: Dstack) -> None:
        done = dstack("logs")
        assert (done.code, "Missing argument" in done.err) == (2, True)

    @pytest.mark.parametrize(
        "words",
        [
            ["runs", ""], ["logs", ""], ["logs", "odd-cat-1", ""], ["stop", "-y", ""], ["stop", "-y", "odd-cat-1", ""],
            ["resume", ""], ["restart", ""], ["restart", "odd-cat-1", ""], ["explain", ""], ["metrics", ""],
            ["compare", "odd-cat-1", ""], ["lineage", ""], ["verify", ""], ["open", ""], ["rm", "-y", ""],
            ["tag", ""], ["tag", "odd-cat-1", ""], ["tag", "odd-cat-1", "-n", ""], ["untag", ""],
            ["tags", "delete", "-y", ""], ["tags", "add", "", "odd-cat-1"], ["tags", "add", "v1", ""],
            ["tags", "add", "v1", "-r", ""], ["schema", "-o", ""],
        ],
        ids="-".join,
    )  # fmt: skip
    def test_an_empty_name(self, stub: StubApi, dstack: Dstack, words: list[str]) -> None:
        done = dstack(*words)
        assert (done.code, "it is empty; is a variable of the shell not set?\n  hint: dstack " in done.err) == (2, True)
        assert stub.calls == []

    def test_a_token_is_sent(self, stub: StubApi, dstack: Dstack, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DSTACK_TOKEN", "s3cret")
        stub.on("GET …/runs", Reply(body={"items": [], "next": None}))
        dstack("runs")
        assert stub.calls[0].headers["authorization"] == "Bearer s3cret"

    def test_an_answer_that_is_not_the_apis(self, stub: StubApi, dstack: Dstack) -> None:
        stub.on("GET …/runs/x", Reply(502, b"<html>bad gateway</html>"))
        done = dstack("runs", "x")
        assert (done.code, "the server answered 502: <html>bad gateway</html>" in done.err) == (2, True)

    def test_a_defect_leaves_no_traceback_on_the_terminal(
        self, dstack: Dstack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object) -> None:
            raise ZeroDivisionError("a defect")

        monkeypatch.setattr("dstack.cli.session.Session.__init__", broken)
        done = dstack("runs")
        assert done.code == 2
        [path] = (tmp_path / "home" / "cli").glob("crash-*.log")
        assert done.err == (
            "error: dstack failed unexpectedly: ZeroDivisionError: a defect\n"
            f"  hint: this is a defect of dstack; please report it with {path}\n"
        )
        assert "Traceback" in path.read_text()
