"""`dstack workflows` and `dstack validate` against a stub of the API."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from tests.contract.cli.conftest import Dstack
from tests.support.stub_api import Call, Reply, StubApi


class TestWorkflows:
    def test_none_yet(self, stub: StubApi, dstack: Dstack, repository: Path) -> None:
        warning = {
            "severity": "warning",
            "file": "w.yaml",
            "line": 1,
            "column": 1,
            "message": "the file holds no workflow",
        }
        stub.on("POST …/validate", Reply(body={"diagnostics": [warning], "workflows": []}))
        done = dstack("workflows")
        assert (done.code, done.out) == (0, "")
        assert done.err == (
            f"w.yaml:1:1: warning: the file holds no workflow\n{repository}/.dstack defines no workflow yet.\n"
        )
        assert dstack("validate").out == "no workflow is defined yet\n"
        done = dstack("workflows", "--repo", str(repository.parent))
        assert (done.code, "has no .dstack/workflows.yaml" in done.err) == (2, True)


class TestValidate:
    def test_the_files_that_would_be_sent_are_told(self, stub: StubApi, dstack: Dstack, repository: Path) -> None:
        stub.on("POST …/validate", Reply(body={"diagnostics": [], "workflows": []}))
        (repository / "data").mkdir()
        (repository / "data" / "a b.csv").touch()
        (repository / ".dstackignore").write_text("*.csv\n!a b.csv\n*.pt\n")
        (repository / "model.pt").touch()
        dstack("validate")
        [call] = stub.named("POST …/validate")
        assert call.json["code"] == [".dstack/workflows.yaml", ".dstackignore", "data/a b.csv", "train.py"]

    def test_what_is_in_files_is_sent_where_it_is_asked_for(
        self, stub: StubApi, dstack: Dstack, repository: Path
    ) -> None:
        (repository / "r.txt").write_bytes(b"-r more.txt\n\xff")
        (repository / "sub").mkdir()
        (repository / "sub" / "more.txt").write_text("six\n")
        (repository / "more.txt").symlink_to("sub/more.txt")
        (repository / "away.txt").symlink_to("/etc/hostname")
        (repository / ".dstackignore").write_text("ignored.txt\n")
        (repository / "ignored.txt").touch()
        (repository / "hidden.txt").symlink_to("ignored.txt")
        (repository / "up").symlink_to("..")
        asked = ["r.txt", "more.txt", "away.txt", "hidden.txt", "up/other.txt", "gone.txt"]
        (repository.parent / "other.txt").write_text("not of the repository")
        answers = [asked[:1], asked, asked]
        stub.on("POST …/validate", lambda _: Reply(body={"diagnostics": [], "workflows": [], "reads": answers.pop(0)}))

        assert dstack("validate").code == 0

        sent = [call.json["contents"] for call in stub.named("POST …/validate")]
        text = base64.b64encode(b"-r more.txt\n\xff").decode()
        assert sent[:2] == [{}, {"r.txt": text}]
        assert sent[2] == {
            "r.txt": text, "more.txt": base64.b64encode(b"six\n").decode(), "away.txt": None, "hidden.txt": None,
            "up/other.txt": None, "gone.txt": None,
        }  # fmt: skip

    def test_files_that_are_too_large_are_not_asked_for_again(
        self, stub: StubApi, dstack: Dstack, repository: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dstack.client.checked.MOST_BYTES", 3)
        (repository / "r.txt").write_text("four")
        stub.on("POST …/validate", Reply(body={"diagnostics": [], "workflows": [], "reads": ["r.txt"]}))

        assert dstack("validate").code == 0
        assert [call.json["contents"] for call in stub.named("POST …/validate")] == [{}, {}]

    def test_no_more_is_sent_than_a_check_takes(
        self, stub: StubApi, dstack: Dstack, repository: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dstack.client.checked.MOST_SENT", 6)
        asked = [f"{name}.txt" for name in "abcd"]
        for name in asked:
            (repository / name).write_text("four" if name != "d.txt" else "2!")
        answer = {"diagnostics": [], "workflows": [], "reads": asked}
        stub.on("POST …/validate", Reply(body=answer))

        assert dstack("validate").code == 0
        text = {"a.txt": base64.b64encode(b"four").decode(), "d.txt": base64.b64encode(b"2!").decode()}
        assert [call.json["contents"] for call in stub.named("POST …/validate")] == [{}, text]

    def test_files_that_name_each_other_are_all_looked_at(
        self, stub: StubApi, dstack: Dstack, repository: Path
    ) -> None:
        for number in range(20):
            (repository / f"r{number}.txt").write_text(f"six=={number}\n")

        def answer(call: Call) -> Reply:
            known = len(call.json["contents"])
            reads = [f"r{known}.txt"] if known < 20 else []
            return Reply(body={"diagnostics": [], "workflows": [], "reads": reads})

        stub.on("POST …/validate", answer)

        assert dstack("validate").code == 0
        assert len(stub.named("POST …/validate")[-1].json["contents"]) == 20

    def test_links_that_lead_to_each_other_lead_nowhere(self, stub: StubApi, dstack: Dstack, repository: Path) -> None:
        (repository / "a.txt").symlink_to("b.txt")
        (repository / "b.txt").symlink_to("a.txt")
        stub.on("POST …/validate", Reply(body={"diagnostics": [], "workflows": [], "reads": ["a.txt"]}))

        assert dstack("validate").code == 0
        assert stub.named("POST …/validate")[-1].json["contents"] == {"a.txt": None}

    def test_no_errors(self, stub: StubApi, dstack: Dstack) -> None:
        stub.on("POST …/validate", Reply(body={"diagnostics": [], "workflows": [{"name": "train"}]}))
        done = dstack("validate")
        assert (done.code, done.out) == (0, "1 workflow: no errors\n")
        assert json.loads(dstack("validate", "--json").out) == []

    def test_errors(self, stub: StubApi, dstack: Dstack) -> None:
        problem = {"severity": "error", "file": "w.yaml", "line": 1, "column": 2, "message": "bad"}
        stub.on("POST …/validate", Reply(body={"diagnostics": [problem], "workflows": []}))
        done = dstack("validate")
        assert (done.code, done.err) == (2, "w.yaml:1:2: bad\n")
        done = dstack("validate", "--json")
        assert (done.code, json.loads(done.out)) == (2, [problem])
