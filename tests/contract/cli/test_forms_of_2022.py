"""Forms of the commands of 2022 that mean what another form means today: the same request goes to the server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dstack.cli.commands import FORMER
from tests.contract.cli.conftest import Dstack, Store, a_job, a_run, end
from tests.contract.cli.test_commands import ask
from tests.support.stub_api import Call, Reply, StubApi

TAG = {"name": "v1", "workflow": "train", "run": "odd-cat-1", "repository": "project", "at": 1, "partial": False}


@pytest.mark.parametrize(("name", "now"), FORMER.items())
def test_names_of_earlier_versions(dstack: Dstack, name: str, now: str) -> None:
    done = dstack(name, "odd-cat-1")
    told = f"error: there is no command `{name}`; write `dstack {now}`\n  hint: dstack --help\n"
    assert (done.code, done.err) == (2, told)
    assert dstack(*now.split(), "--help").code == 0


class TestTags:
    @pytest.mark.parametrize("words", [["odd-cat-1"], ["-r", "odd-cat-1"], ["odd-cat-1", "-y"]])
    def test_add_a_run(self, stub: StubApi, dstack: Dstack, words: list[str]) -> None:
        stub.on("POST …/tags", Reply(body={"items": [TAG]}))
        done = dstack("tags", "add", "v1", *words)
        assert (done.code, done.err) == (0, "train:v1 is now odd-cat-1\n")
        assert stub.named("POST …/tags")[0].json == {"run": "odd-cat-1", "name": "v1", "force": False}
        assert json.loads(dstack("tags", "add", "v1", *words, "--json").out) == [TAG]

    @pytest.mark.parametrize("option", ["-f", "--force"])
    def test_add_a_run_that_failed(self, stub: StubApi, dstack: Dstack, option: str) -> None:
        stub.on("POST …/tags", Reply(body={"items": [{**TAG, "partial": True}]}))
        done = dstack("tags", "add", "v1", "odd-cat-1", option)
        assert (done.code, done.err) == (0, "train:v1 is now odd-cat-1 (partial)\n")
        assert stub.named("POST …/tags")[0].json == {"run": "odd-cat-1", "name": "v1", "force": True}

    @pytest.mark.parametrize("words", [["-a", "data", "-a", "models"], ["-a", "data", "models"]])
    def test_add_local_files(
        self, stub: StubApi, store: Store, dstack: Dstack, repository: Path, words: list[str]
    ) -> None:
        for name in ("data", "models"):
            (repository / name).mkdir()
            (repository / name / "file").write_text(name)
        stub.on("POST …/uploads", Reply(201, a_run("new-run-1")))
        done = dstack("tags", "add", "v1", *words, "-y")
        assert (done.code, done.out) == (0, "new-run-1\n")
        sent = stub.named("POST …/uploads")[0].json
        assert (sent["tags"], sent["workflow"]) == (["v1"], "upload")
        assert sorted(item["path"] for item in sent["artifacts"]) == ["data", "models"]

    def test_what_is_tagged_has_to_be_clear(self, stub: StubApi, dstack: Dstack) -> None:
        for words in ([], ["odd-cat-1", "sad-dog-1"], ["odd-cat-1", "-r", "sad-dog-1"], ["-r", "odd-cat-1", "-a", "x"]):
            done = dstack("tags", "add", "v1", *words)
            assert (done.code, "name one RUN, or local files with -a" in done.err) == (2, True)
        assert stub.calls == []

    def test_delete(self, stub: StubApi, dstack: Dstack, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        stub.on("GET …/tags", Reply(body={"items": [TAG]}))
        stub.on("DELETE …/tags/v1", Reply(body={"items": [TAG]}))
        done = dstack("tags", "delete", "v1")
        assert (done.code, "dstack tags delete -y v1" in done.err) == (2, True)
        ask("n\n", monkeypatch)
        done = dstack("tags", "delete", "v1")
        assert (done.code, done.err) == (1, "Remove v1? [y/N] error: v1 was left alone\n")
        assert stub.named("DELETE …/tags/v1") == []
        ask("y\n", monkeypatch)
        assert dstack("tags", "delete", ":v1").err.endswith("train:v1 removed; it was odd-cat-1\n")
        assert dstack("tags", "delete", "-y", "v1").err == "train:v1 removed; it was odd-cat-1\n"
        assert [call.query for call in stub.named("DELETE …/tags/v1")] == [{"repository": str(repository)}] * 2
        assert json.loads(dstack("tags", "delete", "-y", "v1", "--json").out) == [TAG]

    def test_delete_takes_no_run(self, stub: StubApi, dstack: Dstack) -> None:
        stub.on("GET …/tags", Reply(body={"items": [TAG]}))
        stub.on("DELETE …/tags/odd-cat-1", Reply(body={"items": [TAG]}))
        done = dstack("tags", "delete", "-y", "odd-cat-1")
        assert (done.code, done.err) == (2, (
            "error: there is no tag `:odd-cat-1` in this repository\n"
            "  hint: `dstack untag odd-cat-1` removes all tags of that run\n"
        ))  # fmt: skip
        assert "did you mean `:v1`" in dstack("tags", "delete", "-y", "v2").err
        assert stub.named("DELETE …/tags/odd-cat-1") == []

    @pytest.mark.parametrize("words", [["untag"], ["tags", "delete", "-y"]])
    def test_a_colon_alone(self, stub: StubApi, dstack: Dstack, words: list[str]) -> None:
        assert "`:` alone is no tag" in dstack(*words, ":").err
        assert stub.calls == []

    def test_untag_by_force(self, stub: StubApi, dstack: Dstack) -> None:
        stub.on("DELETE …/tags/v1", Reply(body={"items": [TAG]}))
        assert dstack("untag", "-f", "v1").err == "train:v1 removed; it was odd-cat-1\n"


class TestStop:
    @pytest.fixture(autouse=True)
    def running(self, stub: StubApi, repository: Path) -> None:
        items = [
            a_run("mine-1", "running", user="me"), a_run("theirs-1", "running", user="you"),
            a_run("mine-2", "queued", user="me"),
        ]  # fmt: skip

        def answer(call: Call) -> Reply:
            assert call.query == {"repository": str(repository), "active": "1"}
            return Reply(body={"items": items, "next": None})

        stub.on("GET …/runs", answer)
        for item in items:
            stub.on(f"POST …/runs/{item['name']}/stop", Reply(body=item))

    def test_all_of_mine(self, stub: StubApi, dstack: Dstack) -> None:
        done = dstack("stop", "-a", "-y")
        assert (done.code, done.err) == (0, "mine-1: stopping\nmine-2: stopping\n")
        assert stub.named("POST …/runs/theirs-1/stop") == []
        assert [run["name"] for run in json.loads(dstack("stop", "-ay", "--json").out)] == ["mine-1", "mine-2"]

    def test_it_asks_once(self, stub: StubApi, dstack: Dstack, monkeypatch: pytest.MonkeyPatch) -> None:
        done = dstack("stop", "--all")
        assert (done.code, "dstack stop -y --all" in done.err) == (2, True)
        ask("n\n", monkeypatch)
        done = dstack("stop", "-a", "-x")
        assert (done.code, done.err) == (
            1, "Abort 2 runs (mine-1, mine-2)? [y/N] error: mine-1, mine-2 were left alone\n",
        )  # fmt: skip
        assert [call.path for call in stub.calls if call.method == "POST"] == []
        ask("y\n", monkeypatch)
        assert dstack("stop", "-a").code == 0
        assert stub.named("POST …/runs/mine-2/stop")[0].json == {"abort": False}

    def test_nothing_runs(self, stub: StubApi, dstack: Dstack) -> None:
        stub.on("GET …/runs", Reply(body={"items": [], "next": None}))
        done = dstack("stop", "-a")
        assert (done.code, done.err) == (0, "You have no unfinished run here.\n")
        assert json.loads(dstack("stop", "-a", "--json").out) == []

    def test_abort_in_short(self, stub: StubApi, dstack: Dstack) -> None:
        assert dstack("stop", "-x", "-y", "mine-1").err == "mine-1: aborting\n"
        assert stub.named("POST …/runs/mine-1/stop")[0].json == {"abort": True}

    def test_one_job(self, stub: StubApi, dstack: Dstack, monkeypatch: pytest.MonkeyPatch) -> None:
        for words in (["mine-1", "train"], ["mine-1/train"]):
            assert dstack("stop", "-y", *words).err == "mine-1/train: stopping\n"
            assert stub.calls[-1].json == {"abort": False, "job": "train"}
        done = dstack("stop", "mine-1", "train")
        assert (done.code, "dstack stop -y mine-1 train" in done.err) == (2, True)
        ask("n\n", monkeypatch)
        done = dstack("stop", "mine-1", "train")
        assert (done.code, done.err) == (1, "Stop mine-1/train? [y/N] error: mine-1/train was left alone\n")

    def test_one_or_all(self, stub: StubApi, dstack: Dstack) -> None:
        """In May of 2022 `-a` was to abort: that must not stop everything."""
        done = dstack("stop", "-y", "mine-1", "-a")
        assert (done.code, "to abort it: dstack stop --abort mine-1" in done.err) == (2, True)
        assert dstack("stop", "-y").code == 2
        assert dstack("stop", "-y", "mine-1/train", "eval").code == 2
        assert stub.calls == []


class TestLogs:
    def test_attach(self, stub: StubApi, dstack: Dstack) -> None:
        stub.on("GET …/runs/odd-cat-1", Reply(body=a_run()))
        stub.on("GET …/runs/odd-cat-1/logs", Reply(stream=end()))
        for option in ("-a", "--attach"):
            dstack("logs", option, "odd-cat-1")
            assert stub.calls[-1].query == {"follow": "1"}

    def test_one_job(self, stub: StubApi, dstack: Dstack) -> None:
        stub.on("GET …/runs/odd-cat-1", Reply(body=a_run(jobs=[a_job("prepare"), a_job("train")])))
        stub.on("GET …/runs/odd-cat-1/logs", Reply(stream=end()))
        for words in (["odd-cat-1", "train"], ["odd-cat-1/train"], ["odd-cat-1/train", "train"]):
            dstack("logs", *words)
            assert stub.calls[-1].query == {"follow": "0", "job": "train"}
        done = dstack("logs", "odd-cat-1/train", "prepare")
        assert (done.code, "two jobs were given: train and prepare" in done.err) == (2, True)


class TestArtifacts:
    def test_without_a_command(self, dstack: Dstack) -> None:
        for words in (["odd-cat-1"], ["odd-cat-1", "-o", "out"], [":v1"], ["train:v1"], ["odd-cat-1/train"]):
            name = words[0]
            done = dstack("artifacts", *words)
            hint = f"dstack artifacts list {name}, or dstack artifacts download {name} -o DIR"
            assert (done.code, done.err) == (2, f"error: there is no command `artifacts {name}`\n  hint: {hint}\n")
        assert "did you mean `list`?" in dstack("artifacts", "lst", "odd-cat-1").err
        told = "error: there is no command `artifacts foo`\n  hint: dstack artifacts --help\n"
        assert dstack("artifacts", "foo").err == told


class TestRuns:
    def test_without_jobs(self, stub: StubApi, dstack: Dstack) -> None:
        run = a_run(jobs=[a_job("train")], variables={"lr": 0.1})
        stub.on("GET …/runs/odd-cat-1", Reply(body=run))
        stub.on("GET …/runs", Reply(body={"items": [run], "next": None}))
        out = dstack("status", "odd-cat-1", "--no-jobs").out
        assert ("--lr 0.1\n" in out, "ATTEMPT" in out, "1/1" in out) == (True, False, True)
        [shown] = json.loads(dstack("status", "odd-cat-1", "--no-jobs", "--json").out)
        assert (shown["jobs"], shown["jobs_total"]) == ([], 1)
        assert dstack("status", "--no-jobs").out == dstack("status").out


class TestPrune:
    @pytest.mark.parametrize("option", ["-y", "-f", "--force"])
    def test_by_force(self, stub: StubApi, dstack: Dstack, option: str) -> None:
        stub.on("GET …/runs", Reply(body={"items": [a_run()], "next": None}))
        stub.on("POST …/runs/delete", Reply(body={"deleted": ["odd-cat-1"], "refused": []}))
        assert dstack("prune", option).err == "odd-cat-1 deleted\n"


class TestRestart:
    def test_clear(self, stub: StubApi, dstack: Dstack) -> None:
        stub.on("GET …/runs/odd-cat-1/given", Reply(body={"workflow": "train", "values": [], "shell": []}))
        stub.on("POST …/runs/odd-cat-1/resume", Reply(201, a_run("odd-cat-2", "queued")))
        for option in ("-c", "--clear"):
            assert dstack("restart", "odd-cat-1", "train", option, "-d").code == 0
            assert stub.named("POST …/runs/odd-cat-1/resume")[-1].json["fresh"] is True
