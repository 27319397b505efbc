"""How cost and memory grow: from 1,000 to 200,000 files; a sparse file of 200 GB, a million files."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Literal

from benchmarks.artifacts import Inside, restart
from benchmarks.folders import SETTLED, Folder, Kind, discard
from benchmarks.measure import Case, CommandFailed, Row, Sample, peak_memory, run
from benchmarks.ours import Dstack

COUNTS = (1_000, 20_000, 200_000)
SIZE = 4096
SPARSE = 200 * 10**9
MANY = 1_000_000
SERVER = "the server meanwhile"


def scale_row(program: Inside, scratch: Path, what: Literal["save", "restore"]) -> Row:
    """What an empty folder takes is taken off: the question is what a file costs."""
    cases = [_scale_case(program, scratch, what, count) for count in COUNTS]
    title = {"save": "save files of 4 KiB for the first time", "restore": "get files of 4 KiB back"}[what]
    return Row(f"scale-{what}", f"{title}, in the agent; what an empty folder costs is taken off", cases, 3)


def _scale_case(program: Inside, scratch: Path, what: str, count: int) -> Case:
    cwd = scratch / f"scale-{what}-{count}"
    folder = Folder(cwd / "data", Kind(f"scale{count}", "", count, SIZE, 0, 0))
    empty, target = cwd / "empty", cwd / "restored"

    def measured() -> Sample:
        if not folder.path.exists():
            empty.mkdir(parents=True)
            folder.make()
        program.end()
        restart(program.dstack, cwd)
        program.ask(forget=True)
        found: list[Sample] = []
        for source in (empty, folder.path):
            os.sync()
            sample = program.ask(save=str(source))
            if what == "restore":
                os.sync()
                sample = program.ask(restore=str(target))
                discard(target)
            found.append(sample)
        fixed, whole = found
        return Sample(whole.wall - fixed.wall, whole.cpu - fixed.cpu, memory=whole.memory)

    return Case(f"{count:,} files", [], cwd, {}, inside=measured, size=count)


def sparse_row(dstack: Dstack, scratch: Path) -> Row:
    cwd = scratch / "sparse"
    folder = cwd / "data"
    folder.mkdir(parents=True)
    with (folder / "sparse.bin").open("wb") as file:
        file.truncate(SPARSE)
    return _memory_row(dstack, folder, "memory-sparse", f"a sparse file of {SPARSE // 10**9} GB")


def files_row(dstack: Dstack, scratch: Path) -> Row:
    folder = Folder(scratch / "many" / "data", Kind("many", "", MANY, 64, 0, 0))
    folder.make()
    return _memory_row(dstack, folder.path, "memory-files", f"{MANY:,} files")


def _memory_row(dstack: Dstack, folder: Path, name: str, title: str) -> Row:
    """Once each, in this order: saved, saved again, got back; then what the server held at most."""
    cwd, target = folder.parent, folder.parent / "restored"
    time.sleep(SETTLED)
    restart(dstack, cwd)

    def command(tool: str, *words: str) -> Case:
        return Case(tool, [dstack.program, "artifacts", *words], cwd, dstack.environment)

    def got_back() -> Sample:
        run_name = str(dstack.newest_run(cwd)["name"])
        found = run(command("restore", "download", run_name, "-o", str(target)), timeout=3600)
        discard(target)
        return found

    def server() -> Sample:
        pid = dstack.pid("server")
        if pid is None:
            raise CommandFailed("the server wrote no process id into its lock file")
        json.loads(dstack("runs", "--json", cwd=cwd))
        return Sample(0, 0, memory=peak_memory(pid))

    def saved() -> Sample:
        return run(command("save", "upload", folder.name), timeout=3600)

    cases = [
        Case("save", [], cwd, {}, inside=saved),
        Case("save again", [], cwd, {}, inside=saved),
        Case("restore", [], cwd, {}, inside=got_back),
        Case(SERVER, [], cwd, {}, inside=server),
    ]
    return Row(name, f"memory: {title} by command", cases, 1)
