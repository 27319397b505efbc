"""Our side of saving folders: by command, and within a program that runs already, as the agent does it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Self

from benchmarks.folders import Folder
from benchmarks.keepers import Keeper
from benchmarks.measure import CommandFailed, Sample
from benchmarks.ours import ROOT, Dstack

OURS, INSIDE = "dstack", "dstack, in the agent"


class Inside:
    """A program that uses dstack's own modules and answers how long a call took. Its first question starts it."""

    def __init__(self, dstack: Dstack, cwd: Path) -> None:
        self.dstack = dstack
        self._cwd = cwd
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            if process.stdin:
                process.stdin.close()
            process.wait()
            if process.stdout:
                process.stdout.close()

    def ask(self, **request: object) -> Sample:
        """Raises CommandFailed where the program ended instead of answering; what it said is on stderr."""
        answer = self.answer(**request)
        return Sample(answer["wall"], answer["cpu"], memory=answer["memory"])

    def answer(self, **request: object) -> dict[str, Any]:
        if self._process is None:
            self._process = subprocess.Popen(
                [self.dstack.python, "-P", ROOT / "benchmarks" / "inside.py"],
                cwd=self._cwd,
                env=self.dstack.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise CommandFailed(f"the program that was asked for {request} ended with code {self._process.wait()}")
        return json.loads(line)


def keeper(dstack: Dstack, source: Folder) -> Keeper:
    cwd = source.path.parent

    def restore(target: Path) -> list[str | Path]:
        return [dstack.program, "artifacts", "download", str(dstack.newest_run(cwd)["name"]), "-o", target]

    return Keeper(
        OURS,
        source,
        dstack.environment,
        dstack.home / "server" / "store",
        lambda: restart(dstack, cwd),
        [dstack.program, "artifacts", "upload", source.path.name],
        restore,
        verify=[dstack.program, "verify", "--all"],
        collect=[dstack.program, "gc", "--yes", "--grace", "0s"],
    )


def inside_keeper(program: Inside, source: Folder) -> Keeper:
    dstack, cwd = program.dstack, source.path.parent

    def forget() -> None:
        program.end()
        restart(dstack, cwd)
        program.ask(forget=True)

    return Keeper(
        INSIDE,
        source,
        dstack.environment,
        dstack.home / "server" / "store",
        forget,
        [],
        lambda target: [],
        inside=lambda: program.ask(save=str(source.path)),
        inside_restore=lambda target: program.ask(restore=str(target / source.path.name)),
    )


def restart(dstack: Dstack, cwd: Path) -> None:
    """An empty home with its server running."""
    dstack.forget()
    dstack("server", "start", cwd=cwd)
