"""The rows of what is saved: folders beside other tools, capture while a job runs, memory, inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks import artifacts, backup_peers, deltas
from benchmarks.capturing import capture_row
from benchmarks.folders import BIG, SMALL, Folder, Kind, discard, touch_memory
from benchmarks.inputs import input_row
from benchmarks.keepers import Keeper, When, gc_row, restore_row, save_row, verify_row
from benchmarks.measure import Row
from benchmarks.ours import Dstack
from benchmarks.peers import Peer
from benchmarks.scale import files_row, scale_row, sparse_row

NAMES = (
    "save-a-first",
    "save-a-unchanged",
    "save-a-changed",
    "restore-a",
    "verify-a",
    "gc-a",
    "save-b-first",
    "save-b-unchanged",
    "save-b-changed",
    "restore-b",
    "verify-b",
    "gc-b",
    "scale-save",
    "scale-restore",
    "capture",
    "memory-sparse",
    "memory-files",
    "input-10g",
    "deltas",
)
"""In this order."""
LARGE = ("memory-sparse", "memory-files", "input-10g", "deltas")
"""Rows that take tens of gigabytes or many minutes: measured when they are asked for."""


def artifact_rows(shelf: Shelf, dstack: Dstack, scratch: Path) -> dict[str, Callable[[], Row]]:
    found: dict[str, Callable[[], Row]] = {}
    for kind in (BIG, SMALL):
        found[f"save-{kind.name}-first"] = partial(shelf.save, kind, "first")
        found[f"save-{kind.name}-unchanged"] = partial(shelf.save, kind, "unchanged")
        found[f"save-{kind.name}-changed"] = partial(shelf.save, kind, "changed")
        found[f"restore-{kind.name}"] = partial(shelf.restore, kind)
        found[f"verify-{kind.name}"] = partial(shelf.verify, kind)
        found[f"gc-{kind.name}"] = partial(shelf.collect, kind)
    found["scale-save"] = partial(scale_row, shelf.inside, scratch, "save")
    found["scale-restore"] = partial(scale_row, shelf.inside, scratch, "restore")
    found["capture"] = partial(capture_row, dstack, scratch)
    found["memory-sparse"] = partial(sparse_row, dstack, scratch)
    found["memory-files"] = partial(files_row, dstack, scratch)
    found["input-10g"] = partial(input_row, dstack, scratch)
    found["deltas"] = partial(_deltas, dstack, scratch)
    return {name: _alone(shelf, name, found[name]) for name in NAMES}


def _deltas(dstack: Dstack, scratch: Path) -> Row:
    """A table of its own, measured in bytes: it is the same on every machine and in every run."""
    environment, folder = dstack.program.parents[2] / "torch", scratch / "deltas"
    folder.mkdir()
    text = deltas.table(deltas.checkpoints(environment, folder))
    return Row("deltas", "what the second of two checkpoints adds, by how files are cut", [], 0, text=text)


def _alone(shelf: Shelf, name: str, make: Callable[[], Row]) -> Callable[[], Row]:
    """Rows that do not share the folders of a kind have the disk for themselves."""

    def made() -> Row:
        if not name.startswith(("save-", "restore-", "verify-", "gc-")):
            shelf.clear()
        return make()

    return made


class Shelf:
    """The folder of one kind and what every tool keeps of it, from row to row; only one kind takes room at a time."""

    def __init__(self, dstack: Dstack, peers: Sequence[Peer], scratch: Path) -> None:
        self._dstack = dstack
        self._peers = peers
        self._scratch = scratch / "kept"
        self._kind: Kind | None = None
        self._keepers: list[Keeper] = []
        self._touched = False
        # A home of its own: what a command has saved is not there already.
        self.inside = artifacts.Inside(Dstack(dstack.program.parents[1], scratch / "inside"), scratch)

    def save(self, kind: Kind, when: When) -> Row:
        return save_row(self._of(kind), kind, when)

    def restore(self, kind: Kind) -> Row:
        return restore_row(self._of(kind), kind, self._scratch / "restored")

    def verify(self, kind: Kind) -> Row:
        return verify_row(self._of(kind), kind)

    def collect(self, kind: Kind) -> Row:
        return gc_row(self._of(kind), kind)

    def clear(self) -> None:
        self.inside.end()
        self.inside.dstack.forget()
        self._dstack.forget()
        discard(self._scratch)
        self._kind, self._keepers = None, []

    def close(self) -> None:
        """Stop what was started."""
        self.inside.end()
        self.inside.dstack.stop()

    def _of(self, kind: Kind) -> list[Keeper]:
        if not self._touched:
            touch_memory()
            self._touched = True
        if self._kind is not kind:
            self.clear()
            source = Folder(self._scratch / "work" / "data", kind)
            source.make()
            self._kind = kind
            self._keepers = [
                artifacts.keeper(self._dstack, source),
                artifacts.inside_keeper(self.inside, source),
                *backup_peers.keepers(source, self._peers, self._scratch),
            ]
        return self._keepers
