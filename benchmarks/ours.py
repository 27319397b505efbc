"""dstack as a person has it: the wheel in an environment of its own, one home per session."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.graphs import Files
from benchmarks.measure import CommandFailed, check

ROOT = Path(__file__).parents[1]
SLOTS = 2
"""What both sides may use at once: dstack's runner, `make -j`, the peers' workers."""


def write(folder: Path, files: Files) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def plain_environment(home: Path) -> dict[str, str]:
    """What every tool gets: this shell's, with a home of its own and without what concerns Python's environments."""
    home.mkdir(parents=True, exist_ok=True)
    dropped = {"VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONPATH"}
    kept = {name: value for name, value in os.environ.items() if name not in dropped and not name.startswith("DSTACK_")}
    return kept | {"HOME": str(home), "DO_NOT_TRACK": "1"}


class Dstack:
    """One installation and one home."""

    def __init__(self, environment: Path, scratch: Path) -> None:
        self.program = environment / "bin" / "dstack"
        self.python = environment / "bin" / "python"
        self.home = scratch / "dstack-home"
        self.environment: Mapping[str, str] = plain_environment(scratch / "home") | {
            "DSTACK_HOME": str(self.home),
            "DSTACK_RUNNER_SLOTS": str(SLOTS),
            # `stop` waits for the runner's end, too.
            "DSTACK_RUNNER_ORPHAN_EXIT": "1",
        }

    def __call__(self, *words: str, cwd: Path) -> str:
        return check([self.program, *words], cwd, self.environment)

    def stop(self) -> None:
        """Ends server and runner; the next command starts them again."""
        if self.home.exists():
            runner = self.pid("runner")
            self("server", "stop", cwd=ROOT)
            if runner:
                _wait_gone(runner)

    def forget(self) -> None:
        """As on a machine where dstack never ran."""
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def pid(self, program: str) -> int | None:
        """Process id of the running `server` or `runner`, read from its lock file; the runner's is just the number."""
        try:
            holder = json.loads((self.home / program / "lock").read_text())
            return int(holder["pid"] if isinstance(holder, dict) else holder)
        except (FileNotFoundError, ValueError, KeyError):
            return None

    def newest_run(self, cwd: Path) -> dict[str, Any]:
        return json.loads(self("runs", "-a", "--json", cwd=cwd))[0]

    def check_done(self, cwd: Path, jobs: int) -> None:
        """Raises CommandFailed unless the newest run has `jobs` jobs, each recorded from start to end as done."""
        # The list of runs leaves jobs of large runs out; one run by name has all of them.
        name = self.newest_run(cwd)["name"]
        found = json.loads(self("runs", name, "--json", cwd=cwd))[0]["jobs"]
        whole = [
            job
            for job in found
            if job["status"] == "done" and job["exit_code"] == 0 and job["started_at"] and job["finished_at"]
        ]
        if len(whole) != jobs:
            raise CommandFailed(f"{jobs} jobs were asked for, {len(whole)} of {len(found)} are recorded as done")


def install(target: Path) -> None:
    """Build this tree's wheel and install it, with its dependencies, into a fresh environment at `target`."""
    shutil.rmtree(target, ignore_errors=True)
    dist = target.parent / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    python = ROOT / ".venv" / "bin" / "python"
    plain = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    check([python.with_name("hatchling"), "build", "--target", "wheel", "--directory", str(dist)], ROOT, plain)
    check([python, "-m", "venv", target], ROOT, plain)
    wheel = next(dist.glob("*.whl"))
    wheels = ["--no-index", "--find-links", str(ROOT / ".wheels")]
    check([target / "bin" / "pip", "install", "--quiet", *wheels, f"{wheel}"], ROOT, plain)


def version(environment: Path, package: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run(
        [environment / "bin" / "python", "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def _wait_gone(pid: int) -> None:
    """Block until process `pid` has ended; it is no child of ours, so this watches a pidfd."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not select.select([descriptor], [], [], 30)[0]:
            raise CommandFailed(f"process {pid} did not end within 30 s of `dstack server stop`")
    finally:
        os.close(descriptor)
