"""Paths that lead out of where they belong (F31), with real processes: by name, by link, or in a forged snapshot."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dstack.client.store import remote_store
from dstack.snapshots.chunking import DEFAULT, digest
from dstack.snapshots.manifests import DIRECTORY, Directory, Encoded, FileEntry, Root, encode_root
from dstack.snapshots.writer import PackWriter
from tests.faults.home import Home

OUT = [
    "../outside",
    "a/../../outside",
    "/outside",
    "//proc/self/root/tmp/outside",
    "~/outside",
    "..",
    ".",
    r"a\0b",
]
"""As they stand between double quotes in YAML."""

PLAIN = ["%2e%2e", "%2e%2e%2foutside", r"C:\outside", r"..\outside", "a#b", "...", "a?b=..", "-rf"]
"""What leads out elsewhere, when it is decoded or read by another system: here names like others."""


@pytest.fixture
def outside(home: Home) -> Path:
    """A folder that nothing of dstack may write to."""
    folder = home.root / "outside"
    folder.mkdir()
    return folder


def linked(outside: Path) -> str:
    """A workflow whose artifact holds a link to `outside`, where that of the one before has a folder."""
    return f"""\
workflows:
  - {{name: inner, provider: bash, artifacts: [a/x], commands: [echo in > a/x/in]}}
  - name: outer
    provider: bash
    artifacts: [a]
    depends-on: [inner]
    commands: [rm -r a/x, ln -s {outside} a/x]
  - {{name: both, provider: bash, depends-on: [outer], deps: ['outer:latest', 'inner:latest'], commands: [ls -R a]}}
"""


def test_a_download_goes_through_no_link(home: Home, outside: Path) -> None:
    """What one artifact brings does not lead the next one out: not on a download, and not when results are opened."""
    home.write(linked(outside))
    home.types("run", "outer")
    (name,) = [run["name"] for run in home.runs()]
    target = home.root / "results"
    said = home.types("artifacts", "download", name, "-o", str(target), code=2).stderr
    assert "artifact `a/x` of inner would lie outside of" in said
    assert f"a link there leads to {outside}" in said
    assert os.readlink(target / "a" / "x") == str(outside)
    home.types("open", name, "--path", code=2)
    assert os.listdir(outside) == []


def test_a_link_of_the_persons_own(home: Home, outside: Path) -> None:
    """A folder of the repository that is a link is no place to pull into, and none for a job to write to."""
    home.write("workflows:\n  - {name: save, provider: bash, artifacts: [out], commands: [echo x > out/file]}\n")
    (home.repo / ".dstackignore").write_text("out\n")
    (home.repo / "out").symlink_to(outside)
    done = home.types("run", "save", "--pull", code=2)
    assert f"a link there leads to {outside}" in done.stderr
    (home.repo / ".dstackignore").unlink()
    done = home.types("run", "save", code=119)
    assert "artifacts 'out' leads out of the job's working copy" in done.stdout
    assert os.listdir(outside) == []


def test_an_input_goes_through_no_link(home: Home, outside: Path) -> None:
    home.write(linked(outside))
    home.types("run", "outer")
    for name in (run["name"] for run in home.runs()):
        home.types("tag", name, "latest")
    home.write(linked(outside).replace("depends-on: [outer], ", ""))
    done = home.types("run", "both", code=119)
    assert "the artifact of inner 'a/x' leads out of the job's working copy" in done.stdout
    assert os.listdir(outside) == []


@pytest.mark.parametrize("folder", ["out", "deep/out"])
def test_an_artifact_folder_that_became_a_link(home: Home, outside: Path, folder: str) -> None:
    """Nothing is saved of what it leads to, while the job runs or at its end."""
    (outside / "out").mkdir()
    (outside / "secret").touch()
    top = folder.partition("/")[0]
    home.environment["DSTACK_RUNNER_QUIET_PERIOD"] = "0.1"
    home.write(f"""\
workflows:
  - name: swap
    provider: bash
    artifacts: [{folder}]
    commands: [rm -r {top}, ln -s {outside} {top}, sleep 0.5, touch {outside}/more {outside}/out/more, sleep 0.5]
""")
    done = home.types("run", "swap", code=121)
    assert f"{folder} was not saved: the job put a link there that leads out of its folder" in done.stderr
    (name,) = [run["name"] for run in home.runs()]
    with home.api() as api:
        assert [item.get("files") for item in api.artifacts(run=name)] in ([], [0])


@pytest.mark.parametrize(
    ("folder", "command", "what"),
    [
        ("out", "echo x > out", "a file in the place of the folder out"),
        ("deep/out", "echo x > deep", "a file in the place of the folder deep"),
        ("out", "ln -s nowhere out", "a link to no folder in the place of the folder out"),
    ],
)
def test_an_artifact_folder_that_became_a_file(home: Home, folder: str, command: str, what: str) -> None:
    top = folder.partition("/")[0]
    home.write(f"""\
workflows:
  - {{name: swap, provider: bash, artifacts: [{folder}], commands: [rm -r {top}, {command}]}}
""")
    done = home.types("run", "swap", code=121)
    said = (
        f"{folder} was not saved: the job put {what}. "
        "Let it write into that folder, or name the folder around it as the artifact\n"
    )
    assert said in done.stderr
    assert str(home.folder) not in done.stderr


def test_what_leads_out_is_refused_before_the_run(home: Home) -> None:
    for path in OUT:
        keys = {
            "artifacts": f'provider: bash, commands: ["true"], artifacts: ["{path}"]',
            "working_dir": f'provider: bash, commands: ["true"], working_dir: "{path}"',
            "requirements": f'provider: bash, commands: ["true"], requirements: "{path}"',
            "script": f'provider: python, script: "{path}"',
        }
        if path == ".":
            del keys["working_dir"]  # the folder itself is one to start in
        if path.startswith("/"):
            del keys["script"]  # a program of the machine: read where it is, and not sent
        home.write("workflows:\n" + "".join(f"  - {{name: {key}, {what}}}\n" for key, what in keys.items()))
        wrong = json.loads(home.types("validate", "--json", code=2).stdout)
        found = {item["line"]: item["severity"] for item in wrong}
        for number, key in enumerate(keys, start=2):
            if found.get(number) != "error":
                home.types("run", key, code=2)
        if "\\" not in path:
            for option in ("-a", "-r") if path == "." else ("-a", "--working-dir", "-r"):
                home.types("run", "bash", "-c", "true", option, path, code=2)
    assert home.runs() == []


def test_what_leads_out_elsewhere_is_a_name(home: Home) -> None:
    """Folders and files of such names come back under exactly these."""
    listed = "".join(f"      - '{name}'\n" for name in PLAIN)
    home.write(f"""\
workflows:
  - name: save
    provider: bash
    artifacts:
{listed}
    commands:
      - rm -r .dstack; shopt -s dotglob
      - for folder in *; do for name in *; do [ -d "./$folder" ] && echo "$name" > "./$folder/$name"; done; done
  - name: look
    provider: bash
    depends-on: [save]
    commands: ['rm -r .dstack; shopt -s dotglob; for i in *; do (cd "./$i"; ls -A); done']
""")
    done = home.types("run", "look")
    assert done.stdout.count(r"C:\outside") == len(PLAIN)
    (name,) = [run["name"] for run in home.runs()]
    target = home.root / "results" / "here"
    home.types("artifacts", "download", name, "save", "-o", str(target))
    assert sorted(os.listdir(target.parent)) == ["here"]
    assert sorted(os.listdir(target)) == sorted(PLAIN)
    for folder in target.iterdir():
        assert {path.name: path.read_text() for path in folder.iterdir()} == {name: f"{name}\n" for name in PLAIN}


def test_a_forged_snapshot(home: Home) -> None:
    """One who may submit sends code whose names lead out: no run of it begins, and nothing is written."""
    home.types("server", "start")
    files = {".dstack/workflows.yaml": "workflows: [{name: w, provider: bash, commands: ['true']}]"}
    with home.api() as api:
        for name in b"..", b"../outside", b"/outside", b"a\0b":
            manifest = forged(api, FileEntry(name, 0o644, 0, 3, digest(b"abc")))
            code = {"manifest_id": manifest.hex(), "content_id": "00" * 32, "files": 1, "size": 3}
            submission: Any = {
                "workflow": "w", "args": [], "files": files, "repository": {"key": "k", "name": "n"}, "code": code,
            }  # fmt: skip
            run = home.wait_status(api.submit(submission, name.hex()).get("name", ""), "failed")
            assert run["exit_code"] == 119
            assert "is no name of a file" in home.log(run["name"])["w"].decode()
    assert not [path for path in home.root.rglob("outside*") if path != home.root / "outside"]
    assert not (home.root / "outside").exists()


def forged(api: Any, entry: FileEntry) -> bytes:
    """A snapshot in the server's store that our own code would not make."""
    top = Encoded(b"", DIRECTORY + msgspec.msgpack.encode(Directory((), (entry,))))
    tree = Encoded(digest(top.data), top.data)
    root = encode_root(Root(tree.id, b"c" * 32, 0o755, 0, 1, 3, DEFAULT, b""))
    with PackWriter(remote_store(api)) as writer:
        writer.add(digest(b"abc"), b"abc")
        for made in (tree, root):
            writer.add_object(*made)
        writer.finish()
    return root.id
