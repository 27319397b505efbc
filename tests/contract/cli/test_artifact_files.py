"""`dstack artifacts cat`, `cp` and `diff` against a stub that has a store."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from dstack.snapshots.capture import save
from tests.contract.cli.conftest import Dstack
from tests.contract.cli.saved import RUN, Saved
from tests.support.stub_api import StubApi


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


def test_a_copy_of_a_folder_that_ended_early_leaves_nothing(saved: Saved, dstack: Dstack, tmp_path: Path) -> None:
    """Else the next one would go into what it left."""
    saved.add({"a/first": os.urandom(1000), "a/second": "1" * 1000})
    damage(tmp_path / "store", b"1" * 1000)
    done = dstack("artifacts", "cp", f"{RUN}:out/a", str(tmp_path / "new"))
    assert (done.code, "is damaged" in done.err) == (2, True)
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".dstack-*"))


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


def damage(store: Path, content: bytes) -> None:
    """Change the last byte of it where it lies."""
    for pack in store.rglob("*"):
        if pack.is_file() and content in pack.read_bytes():
            pack.chmod(0o600)
            pack.write_bytes(pack.read_bytes().replace(content, content[:-1] + b"?"))


def test_damage_is_told_and_not_served(saved: Saved, dstack: Dstack, tmp_path: Path) -> None:
    saved.add({"x": "1" * 1000})
    damage(tmp_path / "store", b"1" * 1000)
    done = dstack("artifacts", "cat", f"{RUN}:out/x")
    assert (done.code, done.out, "is damaged" in done.err) == (2, "", True)


@pytest.mark.parametrize("words", [["cat"], ["cp"], ["diff", f"{RUN}:out"], ["list"]])
def test_a_path_of_a_run_that_saved_nothing(words: list[str], saved: Saved, dstack: Dstack, tmp_path: Path) -> None:
    source = f"{RUN}:x"
    done = dstack("artifacts", *words, source, *([str(tmp_path)] if words == ["cp"] else []))
    assert (done.code, done.out) == (2, "")
    assert "  hint: saved: nothing\n" in done.err
