"""`dstack du`: what takes space."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import click

from dstack.cli.render import ago, say, size_words, write_json, write_table
from dstack.cli.session import Session
from dstack.client.types import Usage
from dstack.embedded.store_place import store_folder

LARGEST = 20
_FOLDERS = {
    "runner/envs": ("environments", "Python environments of jobs, made again when needed"),
    "runner/cache": ("inputs", "unpacked inputs of jobs, fetched again when needed"),
    "runner/attempts": ("working copies", "of jobs that run, or whose end is not reported yet"),
    "cli/results": ("results", "what `dstack open` has fetched"),
    "cli": ("memory", "what commands remember, to be quick"),
}
"""Folder of the home → what it is called, and what it is. One within another is counted once, as itself."""
_QUARANTINE = "damaged packs that a repair has set aside; you may delete them"


@click.command()
@click.option("-n", "--runs", "limit", type=click.IntRange(min=0), default=LARGEST, show_default=True, metavar="N",
              help="How many of the largest runs.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="A list of objects: `kind`, `size`, …; runs last.")
def du(limit: int, as_json: bool) -> None:
    """Show what takes space: the store, logs, environments and caches, and the runs that brought the most."""
    session = Session()
    with session.api as api:
        used = api.usage(limit=limit)
    parts = [*_of_server(session, used), *(_of_home(session.home) if not session.address else ())]
    runs = used.get("runs", [])
    if as_json:
        write_json([*parts, *({"kind": "run", "size": run["stored"] + run["logs"], **run} for run in runs)])
        return
    write_table(["WHAT", "SIZE", "WHERE"], [[part["kind"], size_words(part["size"]), part["where"]] for part in parts])
    if not runs:
        return
    sys.stdout.write("\n")
    sys.stdout.flush()
    rows = [
        [
            run.get("name", ""),
            run.get("workflow", ""),
            run.get("repository_name") or "",
            size_words(run.get("stored", 0)),
            size_words(run.get("logs", 0)),
            ago(run.get("submitted_at")),
            ", ".join(run.get("tags", [])),
        ]
        for run in runs
    ]
    write_table(["RUN", "WORKFLOW", "REPOSITORY", "STORED", "LOGS", "SUBMITTED", "TAG"], rows)
    say(
        "STORED is what a run added to the store when it saved; equal files are kept once. See: dstack prune, dstack rm"
    )


def _of_server(session: Session, used: Usage) -> Iterator[dict[str, Any]]:
    own = f"{session.home}/server"
    at = session.address
    where = at or f"{store_folder(session.home)}: artifacts and code"
    yield {"kind": "store", "size": used.get("store", 0), "where": where}
    if used.get("quarantine"):
        aside = f"{at}: quarantine" if at else f"{store_folder(session.home)}/quarantine"
        yield {"kind": "quarantine", "size": used.get("quarantine"), "where": f"{aside}: {_QUARANTINE}"}
    yield {"kind": "logs", "size": used.get("logs", 0), "where": at or f"{own}/logs"}
    if used.get("database") is not None:
        yield {"kind": "database", "size": used.get("database"), "where": at or own}


def _of_home(home: str) -> Iterator[dict[str, Any]]:
    seen: set[tuple[int, int]] = set()
    for folder, (kind, about) in _FOLDERS.items():
        size = _allocated(f"{home}/{folder}", seen)
        if size:
            yield {"kind": kind, "size": size, "where": f"{home}/{folder}: {about}"}


def _allocated(folder: str, seen: set[tuple[int, int]]) -> int:
    """Bytes that the files below `folder` take on the disk; `seen` are files that were counted, by device and inode."""
    total = 0
    waiting = [folder]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:
            continue  # gone meanwhile, or not ours to look into
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                total += found.st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
    return total
