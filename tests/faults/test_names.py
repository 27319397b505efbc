"""Names that are hard to keep, show or send (F32), with real processes: exact, or refused before anything runs.

`tests/integration/cli/test_code.py` has the same of code.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from tests.faults.home import Home
from tests.support import describe
from tests.support.repository_files import ODD_NAMES

BYTES = [*map(os.fsencode, ODD_NAMES), b"\xff\xfe", b"caf\xe9.py", b"\xc3("]
OBEYED = {"\x1b", "\x07", "\x9b", "\u202e", "\r"}
"""What no message may carry to a terminal."""

MAKE = f"""
import os
for number, name in enumerate({BYTES!r}):
    for folder in (b"out", b"out/" + str(number).encode(), b"out/" + str(number).encode() + b"/" + name):
        os.makedirs(folder, exist_ok=True)
    for path in (name if number % 3 else b"f", str(number).encode() + b"/" + name + b"/" + name):
        with open(b"out/" + path, "wb") as file:
            file.write(name)
"""
WORKFLOWS = """\
workflows:
  - {name: make, provider: bash, artifacts: [out], commands: [python3 make.py]}
  - {name: look, provider: bash, depends-on: [make], commands: [cd out, python3 ../describe.py]}
"""


def test_an_artifact_of_odd_names(home: Home) -> None:
    """The job that needs it and the person who downloads it get the same files, byte for byte."""
    home.write(WORKFLOWS)
    (home.repo / "make.py").write_text(MAKE)
    shutil.copy(describe.__file__, home.repo / "describe.py")
    seen = json.loads(home.types("run", "look").stdout.replace("look | ", ""))
    assert {os.path.basename(bytes.fromhex(path)) for path in seen} >= set(BYTES[1:3])
    (name,) = [run["name"] for run in home.runs()]
    target = Path(os.fsdecode(bytes(home.root) + b"/b\xff\x1b[31m\n"))
    done = home.types("artifacts", "download", name, "-o", str(target))
    assert describe.describe(bytes(target / "out")) == seen
    assert not OBEYED & set(done.stdout + done.stderr)
    for path in (target / "out").iterdir():
        if path.is_file():
            path.write_text("changed")
    done = home.types("artifacts", "download", name, "-o", str(target), code=2)
    assert "not overwritten" in done.stderr
    assert not OBEYED & set(done.stderr)
    told = json.loads(home.types("artifacts", "download", name, "-o", str(target), "-f", "--json").stdout)
    assert [os.fsencode(item["target"]) for item in told] == [bytes(target / "out")]


def test_a_folder_of_an_odd_name_is_a_repository(home: Home) -> None:
    """Wherever it lies, and whatever the home is called: runs, and is shown as what it is."""
    home.write("workflows:\n  - {name: save, provider: bash, artifacts: [out], commands: [echo x > out/file]}\n")
    odd = os.fsdecode(bytes(home.root) + "/né -rf $HOME '\"\n".encode() + b"\xff")
    shutil.move(home.repo, odd)
    home.repo = Path(odd)
    home.folder = home.root / os.fsdecode("h\u202eome\x1b[31m ".encode() + b"\xfe")
    home.environment |= {"DSTACK_HOME": str(home.folder), "PYTHONUTF8": "1"}
    assert "pulled: out (1 file, 2B)" in home.types("run", "save", "--pull").stderr
    assert (home.repo / "out" / "file").read_text() == "x\n"
    (name,) = [run["name"] for run in home.runs()]
    opened = home.start("open", name, "--path").communicate(timeout=60)[0]
    assert opened == bytes(home.folder) + b"/cli/results/" + name.encode() + b"\n"
    for words in (["runs", "-a"], ["runs", "--json"], ["du"], ["doctor"], ["server", "status"], ["prune"]):
        done = home.types(*words, code=None)
        assert not OBEYED & set(done.stdout + done.stderr), words


def test_a_workflow_of_an_odd_name_is_refused(home: Home) -> None:
    """Its name stands in tags, in other files and on command lines; nothing is submitted."""
    for name in ("a b", "a/b", "..", "a:b", "#", "x" * 256, "\x1b[31m", "a\nb", "@"):
        home.write("workflows:\n  - {name: " + json.dumps(name) + ", provider: bash, commands: ['true']}\n")
        done = home.types("run", name, code=2)
        assert done.stderr.startswith(".dstack/workflows.yaml:2:12: ")
        assert not OBEYED & set(done.stderr)
    assert home.runs() == []


def test_special_files_of_odd_names_are_named_safely(home: Home) -> None:
    """What is not saved is told in the log, on one line each, and at the end; nothing there moves the cursor."""
    home.write("workflows:\n  - {name: pipes, provider: bash, artifacts: [out], commands: [python3 make.py]}\n")
    (home.repo / "make.py").write_text(
        'import os\nfor name in (b"new\\nline", b"\\x1b[31mred", b"caf\\xe9", b"-rf"):\n    os.mkfifo(b"out/" + name)\n'
    )
    done = home.types("run", "pipes")
    names = [
        rf"out/{name}: not saved, it is a named pipe" for name in (r"\x1b[31mred", "-rf", r"caf\xe9", r"new\nline")
    ]
    assert done.stdout.splitlines() == [f"dstack: {text}" for text in names]
    (run,) = home.runs()
    assert run["jobs"][0]["save_warnings"] == names
    *_, last = (lines := done.stderr.splitlines())
    assert lines[lines.index(f"  warning: {names[0]}") :][:4] == [
        *(f"  warning: {text}" for text in names[:3]),
        f"  and more: dstack explain {run['name']}",
    ]
    assert last == f"  fetch: dstack artifacts download {run['name']}"
    for words in (["explain", run["name"]], ["runs", run["name"]]):
        assert names[3] in home.types(*words).stdout
