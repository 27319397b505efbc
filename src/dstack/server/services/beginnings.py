"""What a run that follows another finds of its snapshots: what jobs begin from, and what of it is lost.

A snapshot is lost where rows name it and the store does not have it any more: it was damaged, and a repair has taken
it out. Whoever begins from nothing for that reason is to be asked before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from dstack.domain.parts import parts
from dstack.server.db.engine import Transaction
from dstack.server.services.artifacts import newest_of_run, older_than_newest
from dstack.server.services.catalog import hold_for, lacking
from dstack.server.services.context import Context
from dstack.server.services.errors import Conflict
from dstack.workflows import Diagnostic

Row = Mapping[str, Any]
"""As `artifacts.newest_of_run` gives it."""
_TRIED = 50
"""Older snapshots that are looked for at a time."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a job that starts again finds in its artifact folders."""

    rows: Sequence[Row] = ()
    replaced: Sequence[tuple[Row, Row]] = ()
    """(newest, which is lost; the newest one that is not); the latter is in `rows`, too."""
    lost: Sequence[Row] = ()
    """Of which nothing is left."""


class Snapshots:
    """Of the run `run_id`. With `lock`, what is found in the store stays there until `tx` is over, which writes."""

    def __init__(self, tx: Transaction, context: Context, run_id: UUID, *, lock: bool) -> None:
        self._tx = tx
        self._context = context
        self._look = hold_for if lock else lacking
        self.saved: dict[str, list[Row]] = {}
        """The newest of each path, by job."""
        self.lost: dict[str, list[Row]] = {}
        """Those that would be there, had the store not lost them."""
        rows = newest_of_run(tx, context.project_id, run_id)
        gone = self._gone(rows)
        for row in rows:
            of = self.lost if row["manifest_id"] in gone else self.saved
            of.setdefault(row["job"], []).append(row)

    def has_all(self, job: str, paths: Collection[str]) -> bool:
        return {row["path"] for row in self.saved.get(job, ())} >= set(paths)

    def beginning(self, job: str, paths: Collection[str]) -> Beginning:
        """What there is for the artifact `paths` of a job."""
        rows = [row for row in self.saved.get(job, ()) if _is_put_back(row, paths)]
        replaced: list[tuple[Row, Row]] = []
        lost: list[Row] = []
        for row in self.lost.get(job, ()):
            if _is_put_back(row, paths):
                older = self._older(row)
                if older is None:
                    lost.append(row)
                else:
                    replaced.append((row, older))
        return Beginning([*rows, *(older for _, older in replaced)], replaced, lost)

    def _older(self, row: Row) -> Row | None:
        """The newest snapshot of the same job and path that is in the store."""
        found = older_than_newest(self._tx, self._context.project_id, row["job_id"], row["path"])
        for part in parts((older for older in found if older["files"]), _TRIED):
            gone = self._gone(part)
            for older in part:
                if older["manifest_id"] not in gone:
                    return older
        return None

    def _gone(self, rows: Sequence[Row]) -> set[bytes]:
        return self._look(self._tx, self._context, sorted({row["manifest_id"] for row in rows}))


def _is_put_back(row: Row, paths: Collection[str]) -> bool:
    """An empty folder is there in any case."""
    return row["path"] in paths and row["files"] > 0


@dataclass(frozen=True, slots=True)
class Losses:
    """What the jobs of a run that follows `run` lack, to be told of."""

    run: str
    beginnings: Mapping[str, Beginning]
    """By job, of those that start again with what they had."""
    finished: Collection[str]
    """Jobs that were done: where they start again, that is not for what they lack."""
    redone: Mapping[str, Sequence[Row]] = field(default_factory=dict[str, Sequence[Row]])
    """Jobs that were done and would be reused, had the store not lost these."""

    def check(self, command: str) -> None:
        """Raise Conflict where a job would begin from nothing, or what is done run again; `command` asked for it."""
        blocked = {**self._done_again(), **self._from_nothing()}
        if not blocked:
            return
        job = next(iter(blocked))
        paths = " and ".join(f"`{row['path']}`" for row in blocked[job])
        more = f"; {len(blocked) - 1} more of its jobs lack what they saved" if len(blocked) > 1 else ""
        again = f"`dstack restart {self.run} {job}`"
        raise Conflict(
            f"what {job} of {self.run} saved in {paths} is not in the store any more{more}",
            hint=f"`dstack verify {self.run} --repair` looks for another copy; "
            + (
                f"{again} runs it again, and what follows it"
                if job in self.redone
                else f"{again} starts {job} without it, `{command} --fresh` begins without any"
            ),
        )

    def warnings(self) -> list[Diagnostic]:
        return list(self._warnings())

    def _warnings(self) -> Iterator[Diagnostic]:
        for beginning in self.beginnings.values():
            for lost, older in beginning.replaced:
                yield _begins_earlier(lost, older)
        without = {job: beginning.lost for job, beginning in self.beginnings.items()} | self._done_again()
        for rows in without.values():
            for row in rows:
                yield _begins_without(row)

    def _done_again(self) -> dict[str, Sequence[Row]]:
        """Of `redone`, those that have nothing older to begin from."""
        begin = {job: self.beginnings.get(job, Beginning()) for job in self.redone}
        return {
            job: begin[job].lost or rows
            for job, rows in self.redone.items()
            if begin[job].lost or not begin[job].replaced
        }

    def _from_nothing(self) -> dict[str, Sequence[Row]]:
        return {
            job: beginning.lost
            for job, beginning in self.beginnings.items()
            if beginning.lost and job not in self.finished
        }


def _begins_earlier(lost: Row, older: Row) -> Diagnostic:
    at = datetime.fromtimestamp(older["at"] / 1e6, UTC).isoformat(" ", "seconds").removesuffix("+00:00")
    message = (
        f"what {lost['job']} of {lost['run']} saved last in `{lost['path']}` is not in the store any more: it begins "
        f"with what it saved at {at} UTC"
    )
    return _warning(message, f"`dstack verify {lost['run']} --repair` looks for another copy of the last")


def _begins_without(row: Row) -> Diagnostic:
    message = (
        f"what {row['job']} of {row['run']} saved in `{row['path']}` is not in the store any more: it runs without"
    )
    return _warning(message, "`dstack verify --all` says what else is damaged")


def _warning(message: str, hint: str) -> Diagnostic:
    return Diagnostic("warning", None, None, None, message, "", hint)
