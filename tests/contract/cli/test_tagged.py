"""`WORKFLOW:TAG`, where a command takes what a run saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.contract.cli.conftest import Dstack, a_run
from tests.support.stub_api import Reply, StubApi, error

TAGS = [
    {"name": "v1", "workflow": "prepare", "run": "old-cow-1"},
    {"name": "v1", "workflow": "train", "run": "odd-cat-1"},
    {"name": "v2", "workflow": "train", "run": "odd-cat-2"},
]
ITEM = {"run": "old-cow-1", "job": "prepare", "workflow": "prepare", "path": "data", "files": 1, "size": 1, "at": 1}


@pytest.fixture
def tagged(stub: StubApi) -> StubApi:
    stub.on("GET …/tags", Reply(body={"items": TAGS}))
    stub.on("GET …/artifacts", Reply(body={"items": [ITEM]}))
    stub.on("GET …/artifacts/history", Reply(body={"items": [{**ITEM, "manifest_id": "ab" * 32}]}))
    return stub


def asked(stub: StubApi, route: str) -> dict[str, Any]:
    query = dict(stub.named(route)[-1].query)
    query.pop("repository", None)
    return query


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("prepare:v1", {"tag": "v1", "workflow": "prepare"}),
        ("prepare:v1/prepare-0", {"tag": "v1", "workflow": "prepare", "job": "prepare-0"}),
        (":v1", {"tag": "v1"}),
        ("odd-cat-1:v1", {"run": "odd-cat-1"}),
        ("other:v1", {"run": "other"}),
    ],
)
def test_what_is_listed(text: str, query: dict[str, str], tagged: StubApi, dstack: Dstack) -> None:
    dstack("artifacts", "list", text)

    assert asked(tagged, "GET …/artifacts") == query


@pytest.mark.parametrize("is_run", [False, True])
def test_a_workflow_whose_name_looks_like_a_runs(is_run: bool, tagged: StubApi, dstack: Dstack) -> None:
    tag = {"name": "v7", "workflow": "gpt-small-2", "run": "odd-cat-1"}
    tagged.on("GET …/tags", Reply(body={"items": [*TAGS, tag]}))
    if is_run:
        tagged.on("GET …/runs/gpt-small-2", Reply(body=a_run("gpt-small-2")))
    else:
        tagged.on("GET …/runs/gpt-small-2", error(404, "not-found", "there is no run `gpt-small-2`"))

    done = dstack("artifacts", "list", "gpt-small-2:v7")

    query = {"run": "gpt-small-2"} if is_run else {"tag": "v7", "workflow": "gpt-small-2"}
    assert (asked(tagged, "GET …/artifacts"), done.code) == (query, 2 if is_run else 0)


def test_the_history_of_a_workflows_tag(tagged: StubApi, dstack: Dstack) -> None:
    assert "data" in dstack("artifacts", "log", "prepare:v1:data").out
    assert asked(tagged, "GET …/artifacts/history") == {"tag": "v1", "workflow": "prepare"}
    assert "abababab" in dstack("artifacts", "log", "prepare:v1@abababab").out


def test_a_tag_that_the_workflow_does_not_have(tagged: StubApi, dstack: Dstack) -> None:
    done = dstack("artifacts", "download", "prepare:v2")

    assert (done.code, done.err) == (2, (
        "error: there is no tag `prepare:v2` in this repository\n  hint: did you mean `prepare:v1`?\n"
    ))  # fmt: skip
    assert not tagged.named("GET …/artifacts")


@pytest.mark.parametrize("command", ["cat", "cp"])
def test_a_file_has_to_be_named(command: str, tagged: StubApi, dstack: Dstack, tmp_path: Path) -> None:
    more = [str(tmp_path)] if command == "cp" else []

    done = dstack("artifacts", command, "prepare:v1", *more)

    assert (done.code, "which file of prepare:v1? write prepare:v1:PATH" in done.err) == (2, True)


def test_the_lineage_of_a_workflows_tag(tagged: StubApi, dstack: Dstack) -> None:
    tagged.on("GET …/lineage", Reply(body={"roots": ["old-cow-1"], "links": [], "cut": False}))

    assert dstack("lineage", "prepare:v1").out.startswith("prepare:v1 is old-cow-1\n")
    assert asked(tagged, "GET …/lineage") == {"run": "old-cow-1"}


def test_a_check_of_a_workflows_tag(tagged: StubApi, dstack: Dstack) -> None:
    end = {"t": "end", "artifacts": 1, "files": 1, "bytes": 1}
    tagged.on("POST …/store/verify", Reply(stream=[json.dumps(end).encode() + b"\n"]))

    dstack("verify", "train:v2")

    assert tagged.named("POST …/store/verify")[-1].json["run"] == "odd-cat-2"
