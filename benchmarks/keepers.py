"""Saving a folder and getting it back, tool beside tool: the first time, unchanged, changed, and out of the store.

All tools find the folder in memory, and before each run everything that others wrote is on the disk: nobody waits for
the writes of somebody else. What comes back is compared with what was saved.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.folders import Folder, Kind, discard, disk_size
from benchmarks.measure import Case, Command, CommandFailed, Row, Sample, check

When = Literal["first", "unchanged", "changed"]
REPEATS: Mapping[When, int] = {"first": 3, "unchanged": 7, "changed": 5}
RESTORES = 3


@dataclass(slots=True)
class Keeper:
    """One tool with a store of its own for one folder. Commands run in the folder's parent."""

    tool: str
    source: Folder
    environment: Mapping[str, str]
    kept: Path
    """Where its store is."""
    forget: Callable[[], object]
    """Leaves an empty store."""
    save: Command
    restore: Callable[[Path], Command]
    """The command that puts the folder into an empty one; asked for once something was saved."""
    restored_in: Path | None = None
    """The folder that it puts it into, where the tool does not take any."""
    whens: tuple[When, ...] = ("first", "unchanged", "changed")
    restores: bool = True
    lacking: str | None = None
    inside: Callable[[], Sample] | None = None
    """Saves within a program that runs already."""
    inside_restore: Callable[[Path], Sample] | None = None
    verify: Command = ()
    """Reads everything that is stored and holds it against its hashes; empty where the tool has no such command."""
    collect: Command = ()
    """Looks for what nothing refers to any more, and frees it; empty where the tool has no such command."""
    saved: bool = field(default=False)

    def save_case(self, when: When) -> Case:
        turns = iter(range(self.source.version + 1, 1 << 30))

        def before() -> None:
            match when:
                case "first":
                    self.forget()
                case "unchanged":
                    self._save_once()
                case "changed":
                    self._save_once()
                    self.source.advance(next(turns))
            os.sync()

        return Case(
            self.tool,
            self.save,
            self.source.path.parent,
            self.environment,
            before=before,
            after=lambda _: self._note_saved(),
            kept=lambda: disk_size(self.kept),
            inside=self.inside,
            lacking=self.lacking,
        )

    def restore_case(self, target: Path) -> Case:
        folder = self.restored_in or target
        name = self.source.path.name
        restore = self.inside_restore

        def before() -> None:
            discard(self.restored_in / name if self.restored_in else target)
            folder.mkdir(parents=True, exist_ok=True)
            os.sync()

        def after(_: object = None) -> None:
            compare(self.source.path, folder / name)

        self.saved = self.saved and "changed" in self.whens  # else what it has may be older than the folder is
        lacking = self._problem()
        return Case(
            self.tool,
            [] if lacking else self.restore(target),
            folder if self.restored_in else target.parent,
            self.environment,
            before=before,
            after=after,
            inside=None if restore is None else lambda: restore(target),
            lacking=lacking,
        )

    def upkeep_case(self, command: Command) -> Case:
        """`command` over a store in which the folder is saved."""
        lacking = self._problem()
        return Case(self.tool, command, self.source.path.parent, self.environment, before=os.sync, lacking=lacking)

    def _problem(self) -> str | None:
        """Why nothing can be got back, once something should be saved."""
        if self.lacking is None:
            try:
                self._save_once()
            except CommandFailed as error:
                return f"failed: {error}"[:160].replace("\n", " ")
        return self.lacking

    def _save_once(self) -> None:
        if self.saved:
            return
        self.forget()
        if self.inside is not None:
            self.inside()
        else:
            check(self.save, self.source.path.parent, self.environment)
        self.saved = True

    def _note_saved(self) -> None:
        self.saved = True


def save_row(keepers: Sequence[Keeper], kind: Kind, when: When) -> Row:
    how = {
        "first": "for the first time",
        "unchanged": "again, unchanged",
        "changed": "again, after "
        + ("1 MiB inside one file changed" if kind.changed == 1 else f"{kind.changed} files changed"),
    }
    cases = [keeper.save_case(when) for keeper in keepers if when in keeper.whens]
    rate = (kind.total / 1e6, "MB/s") if kind.count < 1000 else (float(kind.count), "files/s")
    title = f"save {kind.title}, {how[when]}"
    return Row(f"save-{kind.name}-{when}", title, cases, REPEATS[when], rate=rate if when == "first" else None)


def restore_row(keepers: Sequence[Keeper], kind: Kind, scratch: Path) -> Row:
    cases = [keeper.restore_case(scratch / f"restored-{keeper.tool}") for keeper in keepers if keeper.restores]
    rate = (kind.total / 1e6, "MB/s") if kind.count < 1000 else (float(kind.count), "files/s")
    return Row(f"restore-{kind.name}", f"get {kind.title} back, into an empty folder", cases, RESTORES, rate=rate)


def verify_row(keepers: Sequence[Keeper], kind: Kind) -> Row:
    cases = [keeper.upkeep_case(keeper.verify) for keeper in keepers if keeper.verify]
    title = f"read all that is stored of {kind.title} and hold it against its hashes"
    return Row(f"verify-{kind.name}", title, cases, RESTORES, rate=(kind.total / 1e6, "MB/s"))


def gc_row(keepers: Sequence[Keeper], kind: Kind) -> Row:
    cases = [keeper.upkeep_case(keeper.collect) for keeper in keepers if keeper.collect]
    title = f"look in the store of {kind.title} for what nothing refers to; there is nothing"
    return Row(f"gc-{kind.name}", title, cases, RESTORES, rate=(kind.total / 1e6, "MB/s"))


def compare(source: Path, copy: Path) -> None:
    """Raises CommandFailed where `copy` is not what `source` is."""
    done = subprocess.run(["diff", "--recursive", "--brief", source, copy], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CommandFailed(f"what came back differs: {done.stdout[:300]}{done.stderr[:300]}")
