"""The environment that server and runner were started from is deleted while they work."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.docs.markdown import ROOT
from tests.faults.home import DSTACK, LINES, Gated, Home, assert_lines

UV = Path(sys.executable).with_name("uv")
OFFLINE = ("--quiet", "--offline", "--cache-dir", str(ROOT / ".uv-cache"))


def test_they_go_on_and_end_by_themselves(home: Home) -> None:
    """The job's end is recorded and its artifacts are saved; another installation finds everything."""
    installed = install(home.root / "env")
    home.program = installed / "dstack"
    home.environment |= {
        "PATH": f"{installed}:/usr/bin:/bin",
        "DSTACK_SERVER_IDLE_EXIT": "1",
        "DSTACK_RUNNER_ORPHAN_EXIT": "0.5",
    }
    job = Gated(home, artifacts="[out]", ends="seq 1000 > out/numbers")
    name = home.detached("gated")
    job.begun()
    shutil.rmtree(home.root / "env")
    job.go()
    home.wait(lambda: home.programs() == {} or None, "server and runner have ended by themselves")
    for log in ("server/server.log", "runner/runner.log"):
        said = (home.folder / log).read_text()
        assert "Traceback" not in said, said

    home.program = DSTACK
    home.types("server", "start")
    run = home.run(name)
    assert (run["status"], run["jobs"][0]["attempt"]) == ("done", 1)
    job.assert_ran_once()
    assert_lines(home.log(name)["gated"].decode(), LINES)
    [artifact] = [item for item in run["jobs"][0]["artifacts"] if not item["partial"]]
    assert (artifact["path"], artifact["files"]) == ("out", 1)


def install(folder: Path) -> Path:
    """An environment with dstack as a person has it: a copy, not a link to the sources. Its folder of programs."""
    subprocess.run([UV, "venv", *OFFLINE, "--no-project", "--python", sys.executable, folder], check=True)
    wheels = ("--no-index", "--find-links", str(ROOT / ".wheels"))
    subprocess.run([UV, "pip", "install", *OFFLINE, *wheels, "--python", folder / "bin" / "python", ROOT], check=True)
    return folder / "bin"


def test_a_home_that_is_removed_takes_its_programs_along(home: Home) -> None:
    """Who removes `~/.dstack` wants to begin anew: nobody answers out of a database that is gone."""
    job = Gated(home)
    home.detached("gated")
    job.begun()
    removed = (home.server(), home.runner())
    shutil.rmtree(home.folder)
    home.write("workflows:\n  - {name: hello, provider: bash, commands: [echo hello]}\n")
    assert home.types("run", "hello").stdout == "hello\n"
    assert [run["workflow"] for run in home.runs()] == ["hello"]
    home.wait(lambda: not any(map(is_alive, removed)), "the programs of the removed home have ended")
    home.wait(lambda: home.of_jobs() == [], "and their job")
    assert home.programs() == {"dstack.server": 1, "dstack.runner": 1}


def is_alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
