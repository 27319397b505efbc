"""`dstack artifacts` against a stub that has a store: what is listed, read, copied and compared."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from dstack import artifacts
from dstack.snapshots.blobs.local import LocalBlobStore
from dstack.snapshots.capture import save
from dstack.snapshots.listing import entries
from dstack.snapshots.store import SnapshotStore
from tests.contract.cli.conftest import Dstack, a_job, a_run
from tests.support.stub_api import Call, Reply, StubApi
from tests.support.stub_store import serve

RUN = "odd-cat-1"


class Saved:
    """Artifacts that the stub has, newest last."""

    def __init__(self, stub: StubApi, folder: Path) -> None:
        self.items: list[dict[str, Any]] = []
        (folder / "store").mkdir()
        catalog = serve(stub, f"file://{folder}/store/KEY")
        self.store = SnapshotStore(LocalBlobStore(folder / "store"), catalog)
        self._folder = folder
        stub.on("GET …/artifacts", self._newest)
        stub.on("GET …/artifacts/history", self._history)

    def add(self, files: dict[str, str | bytes | None], path: str = "out", job: str = "train", **more: Any) -> str:
        """Save a folder of `files` (None: a folder, text beginning with `->`: a link); its manifest id."""
        folder = self._folder / f"saved-{len(self.items)}"
        folder.mkdir()
        for name, content in files.items():
            at = folder / name
            at.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                at.mkdir()
            elif isinstance(content, str) and content.startswith("->"):
                at.symlink_to(content[2:])
            else:
                at.write_bytes(content if isinstance(content, bytes) else content.encode())
        saved = save(folder, self.store)
        self.items.append(
            {
                "run": RUN, "job": job, "workflow": job.partition("-")[0], "path": path, "files": saved.files,
                "size": saved.size, "partial": False, "at": 1_000_000 * (len(self.items) + 1), "live": False,
                "attempt": 1, "stored": saved.stored, "manifest_id": saved.manifest_id.hex(),
                "content_id": saved.content_id.hex(), **more,
            }
        )  # fmt: skip
        return self.items[-1]["manifest_id"]

    def _newest(self, call: Call) -> Reply:
        newest = {(item["job"], item["path"]): item for item in self._of(call)}
        return Reply(body={"items": list(newest.values())})

    def _history(self, call: Call) -> Reply:
        return Reply(body={"items": self._of(call)[::-1], "next": None})

    def _of(self, call: Call) -> list[dict[str, Any]]:
        return [item for item in self.items if call.query.get("job", item["job"]) == item["job"]
                and call.query.get("run", item["run"]) == item["run"]]  # fmt: skip


@pytest.fixture
def saved(stub: StubApi, tmp_path: Path) -> Saved:
    return Saved(stub, tmp_path)


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
        assert (done.code > 0, done.out, done.err.startswith("error: ")) == (True, "", True), words


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


def test_cat(saved: Saved, dstack: Dstack) -> None:
    data = os.urandom(3_000_000)
    saved.add({"steps/7/model": data, "last": "->steps/7"})
    done = dstack("artifacts", "cat", f"{RUN}:out/last/model")
    assert (done.code, done.out.encode("utf-8", "surrogateescape")) == (0, data)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (RUN, "which file of odd-cat-1? write odd-cat-1:PATH"),
        (f"{RUN}:out", "`out` is a folder"),
        (f"{RUN}:out/modle", "nothing was saved at `out/modle`: modle: not there\n  hint: did you mean `model`?"),
        (f"{RUN}:elsewhere", "nothing was saved at `elsewhere`\n  hint: saved: out"),
        (f"{RUN}:../x", "`../x` is no path of an artifact"),
        (f"{RUN}:out/dangling", "out/dangling`: dangling: a symbolic link leads to nowhere, which was not saved\n"),
        (f"{RUN}:out/away", "leads out of what was saved, to /etc/passwd"),
        (f"{RUN}@ffffffff:out/model", "there is no snapshot ffffffff of odd-cat-1"),
        (f"{RUN}@xyz:out/model", "`xyz` in `odd-cat-1@xyz:out/model` is no snapshot"),
        ("no such", "`no such` names nothing that was saved"),
    ],
)
def test_what_cannot_be_read(saved: Saved, dstack: Dstack, source: str, message: str) -> None:
    saved.add({"model": "1", "away": "->/etc/passwd", "dangling": "->nowhere"})
    done = dstack("artifacts", "cat", source)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_one_path_of_several_jobs(saved: Saved, dstack: Dstack) -> None:
    saved.add({"rank": "0", "same": "x"}, job="train-0")
    saved.add({"rank": "1", "same": "x"}, job="train-1")
    done = dstack("artifacts", "cat", f"{RUN}:out/rank")
    assert (done.code, "several jobs: train-0, train-1\n  hint: name one: odd-cat-1/train-0:out/rank" in done.err) == (
        2, True,
    )  # fmt: skip
    assert dstack("artifacts", "cat", f"{RUN}/train-1:out/rank").out == "1"
    assert dstack("artifacts", "cat", f"{RUN}:out/same").out == "x"


def test_cp_a_file(saved: Saved, dstack: Dstack, tmp_path: Path) -> None:
    saved.add({"run.sh": "#!/bin/sh\n"})
    os.chmod(tmp_path / "saved-0/run.sh", 0o755)
    saved.items.clear()
    saved.items.append({"run": RUN, "job": "train", "path": "out", "at": 1,
                        "manifest_id": save(tmp_path / "saved-0", saved.store).manifest_id.hex()})  # fmt: skip
    assert dstack("artifacts", "cp", f"{RUN}:out/run.sh", str(tmp_path / "new/name.sh")).code == 0
    copied = (tmp_path / "new/name.sh").stat()
    assert (copied.st_mode & 0o777, copied.st_mtime_ns) == (0o755, (tmp_path / "saved-0/run.sh").stat().st_mtime_ns)
    [item] = json.loads(dstack("artifacts", "cp", f"{RUN}:out/run.sh", str(tmp_path / "new"), "--json").out)
    assert item["target"] == str(tmp_path / "new/run.sh")
    (tmp_path / "new/run.sh").write_text("mine")
    assert dstack("artifacts", "cp", f"{RUN}:out/run.sh", str(tmp_path / "new")).code == 2
    assert (tmp_path / "new/run.sh").read_text() == "mine"
    assert dstack("artifacts", "cp", "-f", f"{RUN}:out/run.sh", str(tmp_path / "new")).code == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["name.sh", "run.sh"], "nothing half is left"


def test_cp_a_folder(saved: Saved, dstack: Dstack, tmp_path: Path) -> None:
    saved.add({"a/b/c": "c", "a/d": "d", "e": "e"})
    assert dstack("artifacts", "cp", f"{RUN}:out/a", str(tmp_path / "copy")).code == 0
    assert sorted(path.name for path in (tmp_path / "copy").rglob("*")) == ["b", "c", "d"]
    assert dstack("artifacts", "cp", f"{RUN}:out/a", str(tmp_path / "copy")).code == 0, "into it, as cp does"
    assert (tmp_path / "copy/a/d").read_text() == "d"
    (tmp_path / "copy/a/d").write_text("mine")
    done = dstack("artifacts", "cp", f"{RUN}:out/a", str(tmp_path / "copy"))
    assert (done.code, f"{tmp_path}/copy/a/d" in done.err) == (2, True)
    assert dstack("artifacts", "cp", f"{RUN}:out", str(tmp_path / "all")).code == 0
    assert (tmp_path / "all/e").read_text() == "e"


def test_cp_to_what_ends_with_a_slash(saved: Saved, dstack: Dstack, tmp_path: Path) -> None:
    """It is a folder, whether it is there or not."""
    saved.add({"model": "m"})
    assert dstack("artifacts", "cp", f"{RUN}:out/model", f"{tmp_path}/new/").code == 0
    assert (tmp_path / "new/model").read_text() == "m"


@pytest.mark.parametrize(
    ("what", "dest", "message"),
    [
        ("out/model", "folder", "folder/model is a folder: a file is to be there"),
        ("out/model", "file/below", "file is no folder: nothing can be put below it"),
        ("out", "file", "file is in the way: a folder is to be there"),
        ("out/a", "file/", "file is no folder: nothing can be put below it"),
    ],
)
@pytest.mark.parametrize("force", [[], ["--force"]])
def test_cp_where_something_is_in_the_way(
    saved: Saved, dstack: Dstack, tmp_path: Path, what: str, dest: str, message: str, force: list[str]
) -> None:
    saved.add({"model": "m", "a/b": "b"})
    (tmp_path / "folder/model").mkdir(parents=True)
    (tmp_path / "file").write_text("mine")
    done = dstack("artifacts", "cp", *force, f"{RUN}:{what}", f"{tmp_path}/{dest}")
    assert done.code == 2
    assert message in done.err
    assert "hint: move it away, or choose another place" in done.err
    assert (tmp_path / "file").read_text() == "mine"
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["model"]


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


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a folder that takes no files, not even root's")
def test_where_one_may_not_write(saved: Saved, dstack: Dstack) -> None:
    """Told by the name of what was to be there, not by one that it has until it is whole."""
    saved.add({"x": "1", "sub/y": "2"})
    for words in (["cp", f"{RUN}:out/x", "/proc"], ["cp", f"{RUN}:out/sub", "/proc"], ["download", RUN, "-o", "/proc"]):
        done = dstack("artifacts", *words)
        name = "out" if words[0] == "download" else words[1].rpartition("/")[2]
        assert (done.code, done.err.count("\n")) == (2, 2)
        assert done.err.startswith(f"error: cannot write /proc/{name}: ")
        assert done.err.endswith("\n  hint: choose another place\n")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "No space left on device\n  hint: free space there, or choose another place"),
        (errno.EIO, "Input/output error\n  hint: choose another place"),
    ],
)
def test_cp_to_a_disk_that_refuses(
    saved: Saved, dstack: Dstack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    """It is told by the name that was given, and the old file stays."""
    saved.add({"model": "m"})

    def refuse(path: object, **_: object) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / "model").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(os, "utime", refuse)
        done = dstack("artifacts", "cp", "-f", f"{RUN}:out/model", str(tmp_path / "model"))
    assert (done.code, done.err) == (2, f"error: cannot write {tmp_path}/model: {message}\n")
    assert (tmp_path / "model").read_text() == "mine"
    assert not list(tmp_path.glob(".model*"))


def test_a_name_that_is_no_text_is_found_as_it_is_shown(saved: Saved, dstack: Dstack, tmp_path: Path) -> None:
    saved.add({"model": "m", "folder/x": "y"})
    folder = tmp_path / "saved-0"
    os.rename(folder / "model", os.fsencode(folder) + b"/raw\xff\xfe")
    os.rename(folder / "folder", os.fsencode(folder) + b"/\xff")
    saved.items[0]["manifest_id"] = save(folder, saved.store).manifest_id.hex()
    shown = [item["path"] for item in json.loads(dstack("artifacts", "list", f"{RUN}:out", "--json").out)]
    assert shown == ["out/raw\\xff\\xfe", "out/\\xff", "out/\\xff/x"]
    assert dstack("artifacts", "cat", f"{RUN}:{shown[0]}").out == "m"
    assert dstack("artifacts", "cat", f"{RUN}:{shown[2]}").out == "y"
    done = dstack("artifacts", "cat", f"{RUN}:out/raw\\xff")
    assert (done.code, "did you mean `raw\\xff\\xfe`" in done.err) == (2, True)


def test_diff(saved: Saved, dstack: Dstack) -> None:
    first = saved.add({"same": "x", "changed": "1", "removed": "r", "link": "->same"})
    saved.add({"same": "x", "changed": "22", "new/file": "n", "link": "->changed"})
    done = dstack("artifacts", "diff", f"{RUN}@{first}", RUN)
    assert (done.code, done.out.splitlines()) == (
        1,
        ["~ out/changed  1B -> 2B", "~ out/link  0B", "+ out/new/file  1B", "- out/removed  1B"],
    )
    assert done.err == "1 added, 1 removed, 2 changed\n"
    found = json.loads(dstack("artifacts", "diff", f"{RUN}@{first}:out", f"{RUN}:out", "--json").out)
    assert [(item["path"], item["change"]) for item in found] == [
        ("changed", "changed"), ("link", "changed"), ("new/file", "added"), ("removed", "removed"),
    ]  # fmt: skip
    done = dstack("artifacts", "diff", RUN, RUN)
    assert (done.code, done.out, done.err) == (0, "", "no difference\n")


def test_what_did_not_change_is_not_read(saved: Saved, dstack: Dstack, stub: StubApi) -> None:
    saved.add({"x": "1"})
    dstack("artifacts", "diff", RUN, RUN)
    assert not stub.named("POST …/store/locate")


def test_damage_is_told_and_not_served(saved: Saved, dstack: Dstack, tmp_path: Path) -> None:
    saved.add({"x": "1" * 1000})
    for pack in (tmp_path / "store").rglob("*"):
        if pack.is_file() and b"1" * 1000 in pack.read_bytes():
            pack.chmod(0o600)
            pack.write_bytes(pack.read_bytes().replace(b"1" * 1000, b"1" * 999 + b"2"))
    done = dstack("artifacts", "cat", f"{RUN}:out/x")
    assert (done.code, done.out, "is damaged" in done.err) == (2, "", True)


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
