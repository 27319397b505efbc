"""`dstack artifacts` against a stub that has a store: what is listed, downloaded and uploaded."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dstack import artifacts
from dstack.snapshots.listing import entries
from tests.contract.cli.conftest import Dstack, a_job, a_run
from tests.contract.cli.saved import RUN, Saved
from tests.support.stub_api import Call, Reply, StubApi


def table(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()][1:]


def test_files_in_an_artifact(saved: Saved, dstack: Dstack) -> None:
    saved.add({"a/b.txt": "hello", "last": "->a", "empty": None})
    assert [row[0] for row in table(dstack("artifacts", "list", f"{RUN}", "-l").out)] == [
        "out/a/", "out/a/b.txt", "out/empty/", "out/last",
    ]  # fmt: skip
    [item] = json.loads(dstack("artifacts", "list", f"{RUN}:out/a/b.txt", "--json").out)
    assert (item["path"], item["artifact"], item["type"], item["size"], item["job"]) == (
        "out/a/b.txt", "out", "file", 5, "train",
    )  # fmt: skip
    assert {"run", "mode", "mtime", "target", "digest"} < set(item)


def test_versions_of_a_file(saved: Saved, dstack: Dstack) -> None:
    first = saved.add({"loss": "1", "same": "x"})
    saved.add({"loss": "1", "same": "x", "new": "1"})
    third = saved.add({"loss": "0.5", "same": "x"})
    found = json.loads(dstack("artifacts", "list", f"{RUN}:out/loss", "--all-versions", "--json").out)
    assert [(item["manifest_id"], item["size"]) for item in found] == [(third, 3), (first, 1)]
    assert len(table(dstack("artifacts", "list", RUN, "--all-versions").out)) == 3
    done = dstack("artifacts", "list", f"{RUN}:out/none", "--all-versions")
    assert (done.code, "nothing was saved at `out/none`" in done.err) == (2, True)
    assert dstack("artifacts", "list", RUN, "--all-versions", "-l").code == 2


def test_log(saved: Saved, dstack: Dstack) -> None:
    first = saved.add({"x": "1"}, live=True, partial=True)
    second = saved.add({"x": "2"})
    saved.add({"y": "2"}, path="logs")
    rows = table(dstack("artifacts", "log", f"{RUN}:out").out)
    assert [(row[0], row[-2:]) for row in rows] == [(second[:12], rows[0][-2:]), (first[:12], ["while", "running"])]
    assert [item["manifest_id"] for item in json.loads(dstack("artifacts", "log", f"{RUN}:out", "--json").out)] == [
        second, first,
    ]  # fmt: skip
    done = dstack("artifacts", "log", "other-run-2")
    assert (done.code, done.err) == (0, "other-run-2 has no snapshots\n")


def test_a_snapshot_that_was_thinned(saved: Saved, dstack: Dstack, tmp_path: Path) -> None:
    first = saved.add({"x": "1"}, live=True, partial=True)
    second = saved.add({"x": "2"})
    told = (
        f"there is no snapshot {first[:12]} of odd-cat-1\n"
        "  hint: older ones may have been thinned: `dstack retention` says by which rules. "
        "`dstack artifacts log odd-cat-1` lists the snapshots"
    )
    done = dstack("artifacts", "log", f"{RUN}@{second[:8]}:out", "--json")
    assert [item["manifest_id"] for item in json.loads(done.out)] == [second]
    del saved.items[0]
    for words in (
        ("download", RUN, "--at", first, "-o", str(tmp_path / "d")),
        ("cat", f"{RUN}:out/x", "--at", first[:12]),
        ("list", f"{RUN}:out", "--at", first),
        ("log", f"{RUN}@{first}:out"),
    ):
        done = dstack("artifacts", *words)
        assert (done.code, done.out) == (2, "")
        assert told in done.err
    assert not (tmp_path / "d").exists()


def test_download_some_paths_as_they_were(saved: Saved, dstack: Dstack, tmp_path: Path) -> None:
    first = saved.add({"a/x": "old", "b": "b", "a/y": "y"})
    saved.add({"a/x": "new", "b": "b", "a/y": "y"})
    done = dstack("artifacts", "download", RUN, "out/a/x", "out/b", "-o", str(tmp_path / "d"), "--json")
    assert sorted(path.relative_to(tmp_path / "d").as_posix() for path in (tmp_path / "d").rglob("*")) == [
        "out", "out/a", "out/a/x", "out/b",
    ]  # fmt: skip
    [item] = json.loads(done.out)
    assert (item["target"], item["paths"]) == (str(tmp_path / "d/out"), ["a/x", "b"])
    assert "2 files, 4B" in done.err
    for when in (first[:10], "1970-01-01T00:00:01.5+00:00"):
        assert dstack("artifacts", "download", RUN, "--at", when, "-o", str(tmp_path / when)).code == 0
        assert (tmp_path / when / "out/a/x").read_text() == "old"
    assert dstack("artifacts", "download", f"{RUN}@{first[:8]}:out/a/x", "-o", str(tmp_path / "e")).code == 0
    assert (tmp_path / "e/out/a/x").read_text() == "old"


def test_at_a_snapshot_is_the_time_when_it_was_taken(saved: Saved, dstack: Dstack, tmp_path: Path) -> None:
    saved.add({"step": "1"}, path="logs")
    first = saved.add({"model": "1"}, path="out")
    saved.add({"step": "2"}, path="logs")
    saved.add({"model": "2"}, path="out")
    assert dstack("artifacts", "download", RUN, "--at", first, "-o", str(tmp_path / "d")).code == 0
    assert [(tmp_path / "d" / name).read_text() for name in ("logs/step", "out/model")] == ["1", "1"]
    assert dstack("artifacts", "cat", f"{RUN}:logs/step", "--at", first).out == "1"
    assert dstack("artifacts", "download", f"{RUN}@{first}", "-o", str(tmp_path / "one")).code == 0
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["out"]


def test_download_keeps_what_differs(saved: Saved, dstack: Dstack, tmp_path: Path) -> None:
    saved.add({"x": "theirs", "y": "y"})
    (tmp_path / "d/out").mkdir(parents=True)
    (tmp_path / "d/out/x").write_text("mine")
    done = dstack("artifacts", "download", RUN, "-o", str(tmp_path / "d"))
    assert (done.code, "not overwritten" in done.err, (tmp_path / "d/out/x").read_text()) == (2, True, "mine")
    assert not (tmp_path / "d/out/y").exists()
    assert dstack("artifacts", "download", RUN, "out/y", "-o", str(tmp_path / "d")).code == 0, "x is not asked for"
    assert dstack("artifacts", "download", RUN, "-f", "-o", str(tmp_path / "d")).code == 0
    assert (tmp_path / "d/out/x").read_text() == "theirs"


def test_a_word_that_is_a_workflow_and_no_path(saved: Saved, dstack: Dstack, tmp_path: Path) -> None:
    saved.add({"x": "1"}, job="prepare", path="data")
    saved.add({"x": "2"})
    assert dstack("artifacts", "download", RUN, "prepare", "-o", str(tmp_path / "d")).code == 0
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["data"]


def test_a_word_that_is_a_workflow_beside_an_artifact_that_is_the_folder_itself(
    saved: Saved, dstack: Dstack, tmp_path: Path
) -> None:
    """Anything may stand in it; what does not is no path."""
    saved.add({"x": "1", "train": "a file"}, job="upload", path=".")
    saved.add({"y": "2"})
    assert dstack("artifacts", "download", RUN, "upload", "-o", str(tmp_path / "d")).code == 0
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == ["train", "x"]
    assert dstack("artifacts", "download", RUN, "train", "-o", str(tmp_path / "e")).code == 0
    assert [path.name for path in (tmp_path / "e").iterdir()] == ["train"]
    done = dstack("artifacts", "download", RUN, "nope", "-o", str(tmp_path / "f"))
    assert (done.code, "nothing was saved at `nope`" in done.err, (tmp_path / "f").exists()) == (2, True, False)


def test_an_empty_path_is_not_the_current_folder(saved: Saved, dstack: Dstack, repository: Path) -> None:
    saved.add({"x": "1"})
    before = sorted(repository.rglob("*"))
    for words in (["download", RUN, "-o", ""], ["cp", f"{RUN}:out/x", ""]):
        done = dstack("artifacts", *words)
        message = "error: an empty path names no folder\n  hint: write `.` for the current folder\n"
        assert (done.code, done.err) == (2, message)
    with pytest.raises(artifacts.ArtifactError, match="an empty path names no folder"):
        artifacts.download(run=RUN, to="")
    assert sorted(repository.rglob("*")) == before


def test_a_run_without_artifacts_is_an_answer(saved: Saved, dstack: Dstack) -> None:
    """Only what is asked for by its path must be there."""
    for words in (["list"], ["list", "-l"], ["list", "--all-versions"], ["log"], ["download"], ["diff", RUN]):
        done = dstack("artifacts", words[0], RUN, *words[1:], "--json")
        assert (done.code, done.out) == (0, "[]\n"), words
    for words in (["list"], ["list", "-l"], ["download"], ["diff", RUN]):
        done = dstack("artifacts", words[0], RUN, *words[1:])
        assert (done.code, done.out, f"{RUN} has no artifacts\n" in done.err) == (0, "", True), words
    for words in (["list", f"{RUN}:out"], ["download", RUN, "out"], ["diff", f"{RUN}:out", RUN], ["cat", f"{RUN}:out"]):
        done = dstack("artifacts", *words)
        assert (done.code > 0, done.out, "error: nothing was saved at `out`" in done.err) == (True, "", True), words


def test_files_of_artifacts_within_each_other(saved: Saved, dstack: Dstack) -> None:
    """Each artifact has its own: which it is stands beside them."""
    saved.add({"sub/x": "1"})
    saved.add({"x": "1"}, path="out/sub")
    out = dstack("artifacts", "list", RUN, "-l").out
    assert [(line.split()[0], line.split()[-1]) for line in out.splitlines()] == [
        ("PATH", "ARTIFACT"), ("out/sub/x", "out/sub"), ("out/sub/", "out"), ("out/sub/x", "out"),
    ]  # fmt: skip
    found = json.loads(dstack("artifacts", "list", RUN, "-l", "--json").out)
    assert [(item["path"], item["artifact"]) for item in found if item["type"] == "file"] == [
        ("out/sub/x", "out/sub"), ("out/sub/x", "out"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("out", "message"),
    [("file", "file is no folder: nothing can be put below it"), ("taken", "out is in the way: a folder is to")],
)
def test_download_where_something_is_in_the_way(
    saved: Saved, dstack: Dstack, tmp_path: Path, out: str, message: str
) -> None:
    saved.add({"model": "m"})
    (tmp_path / "file").write_text("mine")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/out").write_text("mine")
    done = dstack("artifacts", "download", "-f", RUN, "-o", f"{tmp_path}/{out}")
    assert done.code == 2
    assert message in done.err
    assert "hint: move it away, or choose another place" in done.err


def uploaded(call: Call) -> Reply:
    items = [{**item, "files": 1, "size": 1} for item in call.json["artifacts"]]
    return Reply(201, a_run(workflow=call.json["workflow"], jobs=[a_job("upload", artifacts=items)]))


def test_upload(saved: Saved, stub: StubApi, dstack: Dstack, repository: Path, tmp_path: Path) -> None:
    stub.on("POST …/uploads", uploaded)
    (repository / "data/raw").mkdir(parents=True)
    (repository / "data/raw/x").write_text("x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/y").write_text("y")
    done = dstack(
        "artifacts", "upload", "data/raw", "train.py", str(tmp_path / "elsewhere"), "-t", "v1", "-w", "prepare"
    )
    assert (done.code, done.out) == (0, f"{RUN}\n")
    [call] = stub.named("POST …/uploads")
    body = call.json
    assert [item["path"] for item in body["artifacts"]] == [".", "data/raw", "elsewhere"]
    assert (body["tags"], body["workflow"], body["repository"]["key"]) == (["v1"], "prepare", str(repository))
    assert len(call.headers["idempotency-key"]) == 32
    names = [[entry.path for entry in entries(saved.store, bytes.fromhex(item["manifest_id"]))]
             for item in body["artifacts"]]  # fmt: skip
    assert names == [[b"train.py"], [b"x"], [b"y"]]


def test_what_of_an_upload_is_not_there_is_told_last(
    saved: Saved, stub: StubApi, dstack: Dstack, repository: Path
) -> None:
    """A file that may not be read is told of in the same way, but not to root, who runs these tests at times."""
    stub.on("POST …/uploads", uploaded)
    (repository / "data/raw").mkdir(parents=True)
    os.mkfifo(repository / "data/raw/pipe")
    done = dstack("artifacts", "upload", "data")
    assert (done.code, done.out) == (0, f"{RUN}\n")
    assert done.err.splitlines()[-1] == "warning: data/raw/pipe: not saved, it is a named pipe"


def test_an_upload_of_what_is_known_stores_nothing(
    saved: Saved, stub: StubApi, dstack: Dstack, repository: Path
) -> None:
    stub.on("POST …/uploads", uploaded)
    (repository / "data").mkdir()
    (repository / "data/x").write_bytes(os.urandom(3_000_000))
    first = json.loads(dstack("artifacts", "upload", "data", "--json").out)
    assert first[0]["name"] == RUN
    done = dstack("artifacts", "upload", "data")
    assert "2.9MiB of it spared: equal content is stored once" in done.err
    one, two = (call.json["artifacts"][0] for call in stub.named("POST …/uploads"))
    assert (one["manifest_id"], one["stored"] > 2_900_000, two["stored"]) == (two["manifest_id"], True, 0)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["nothing"], "there is no nothing"),
        (["../a/data", "../b/data"], "would both be the artifact `data`"),
        (["../a/data/x", "train.py"], "would both be in the artifact `.`"),
    ],
)
def test_what_cannot_be_uploaded(
    stub: StubApi, dstack: Dstack, repository: Path, paths: list[str], message: str
) -> None:
    for name in ("a", "b"):
        (repository.parent / name / "data").mkdir(parents=True)
        (repository.parent / name / "data/x").write_text(name)
    done = dstack("artifacts", "upload", *paths)
    assert (done.code, message in done.err, stub.calls) == (2, True, [])


def test_lineage(stub: StubApi, dstack: Dstack) -> None:
    more = {"partial": False, "tag": None, "path": "data"}
    links = [
        {"direction": "input", "depth": 1, "run": RUN, "step": "train", "source": "old-cow-1", "job": "prepare",
         "source_status": "done", **more, "tag": "v1"},
        {"direction": "input", "depth": 2, "run": "old-cow-1", "step": "prepare", "source": "gone-ant-1", "job": "raw",
         "source_status": "deleted", **more, "partial": True},
        {"direction": "use", "depth": 1, "run": "new-bee-1", "step": "evaluate", "source": RUN, "job": "train",
         "status": "running", **more, "path": "out"},
    ]  # fmt: skip
    stub.on("GET …/lineage", Reply(body={"roots": [RUN], "links": links, "cut": True}))
    done = dstack("lineage", RUN)
    shown = (
        f"{RUN}\n"
        "inputs:\n"
        "  data of old-cow-1/prepare as :v1 (done), for train\n"
        "    data of gone-ant-1/raw (deleted, partial), for prepare\n"
        "used by:\n"
        "  new-bee-1 (running): evaluate took out of train\n"
    )
    assert (done.code, done.out, done.err) == (0, shown, "there is more than is shown\n")
    assert json.loads(dstack("lineage", ":v1", "--json").out) == links
    assert stub.calls[-1].query["tag"] == "v1"
    stub.on("GET …/lineage", Reply(body={"roots": [RUN], "links": [], "cut": False}))
    assert dstack("lineage", RUN).out == f"{RUN}\nno inputs from other runs\nnot used by other runs\n"
