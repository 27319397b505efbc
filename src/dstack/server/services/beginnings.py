"""What a run that follows another finds of its snapshots: what jobs begin from, and what of it is lost.

A snapshot is lost where rows name it and the store does not have it whole any more: it, or something below it, was
damaged, and a repair has taken that out. Whoever begins from nothing for that reason is to be asked before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from dstack.domain.resuming import Instead
from dstack.server.db.engine import Transaction
from dstack.server.services.artifacts import NOW, holding, newest_of_job_by, newest_of_run, newest_of_run_by
from dstack.server.services.catalog import hold_for, lacking
from dstack.server.services.context import Context
from dstack.server.services.doubts import doubtful
from dstack.server.services.moments import Moment

Row = Mapping[str, Any]
"""As `artifacts.newest_of_run` gives it. `instead` of one that a job begins from: why it is not the last, if it is not
(`Instead`)."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a job that starts again finds in its artifact folders."""

    rows: Sequence[Row] = ()
    replaced: Sequence[tuple[Row, Row]] = ()
    """(newest, which is lost or holds no file; the newest one that is there and does), the latter is in `rows`, too."""
    lost: Sequence[Row] = ()
    """Of which nothing is left."""


class Snapshots:
    """Of the run `run_id`; jobs that start again go back to `moment`.

    With `lock`, what is found in the store stays there until `tx` is over, which writes.
    """

    def __init__(self, tx: Transaction, context: Context, run_id: UUID, moment: Moment, *, lock: bool) -> None:
        self._tx = tx
        self._context = context
        self._look = hold_for if lock else lacking
        self._moment = moment
        self.saved: dict[str, list[Row]] = {}
        """The newest of each path, by job."""
        self.lost: dict[str, list[Row]] = {}
        """Those that would be there, had the store not lost them."""
        rows = newest_of_run(tx, context.project_id, run_id)
        then = self._as_of(rows, run_id)
        gone = self._gone((*rows, *then))
        for row in rows:
            of = self.lost if row["manifest_id"] in gone else self.saved
            of.setdefault(row["job"], []).append(row)
        self._last = {(row["job"], row["path"]): row for row in rows}
        self._then: dict[str, list[Row]] = {}
        """What jobs begin from, if it holds files and is whole."""
        for row in then:
            self._then.setdefault(row["job"], []).append(row)
        self._unsound = gone | self._doubted(then)

    def _as_of(self, rows: Sequence[Row], run_id: UUID) -> Sequence[Row]:
        project_id, moment = self._context.project_id, self._moment
        if moment.at is not None:
            return newest_of_run_by(self._tx, project_id, run_id, moment.at)
        back = {row["job_id"] for row in moment.named}
        found: list[Row] = [row for row in rows if row["job_id"] not in back]
        for job_id in sorted(back):
            named = {row["path"]: row for row in moment.named if row["job_id"] == job_id}
            then = newest_of_job_by(self._tx, project_id, job_id, moment.limit(job_id))
            found += [named.get(row["path"], row) for row in then]
        return found

    def has_all(self, job: str, paths: Collection[str]) -> bool:
        return {row["path"] for row in self.saved.get(job, ())} >= set(paths)

    def has_saved(self, job: str) -> bool:
        """Whether the job ever saved anything."""
        return job in self.saved or job in self.lost

    def is_later(self, job: str, at: int) -> bool:
        """Whether the job saved something after that time."""
        return any(row["at"] > at for row in (*self.saved.get(job, ()), *self.lost.get(job, ())))

    def is_whole(self, row: Row) -> bool:
        return not self._lost([row])

    def had_saved(self, job: str) -> bool:
        """Whether it had saved anything by the time that it goes back to."""
        return job in self._then

    def beginning(self, job: str, paths: Collection[str], *, done: bool) -> Beginning:
        """What there is for the artifact `paths` of a job. One that is `done` may have ended with an empty folder on
        purpose; elsewhere that is taken for what it was while the job wrote it anew, or when it was killed."""
        rows: list[Row] = []
        replaced: list[tuple[Row, Row]] = []
        without: list[Row] = []
        for row in self._then.get(job, ()):
            is_empty, last = not row["files"], self._last[job, row["path"]]
            if row["path"] not in paths or (is_empty and done and not row["live"] and row == last):
                continue
            if not is_empty and row["manifest_id"] not in self._unsound:
                asked = row["manifest_id"] != last["manifest_id"]
                rows.append({**row, "instead": Instead.ASKED} if asked else row)
                continue
            older = newest_whole(self._holding(row), self._lost)
            if older.whole is not None:
                rows.append({**older.whole, "instead": Instead.EMPTY if is_empty else Instead.LOST})
                replaced.append((row, rows[-1]))
            elif not is_empty or older.of_all is not None:
                without.append(row)
        return Beginning(rows, replaced, without)

    def _holding(self, row: Row) -> Iterable[Sequence[Row]]:
        limit = NOW if self._moment.at is None else self._moment.at
        if self._moment.named:
            limit = self._moment.limit(row["job_id"])
        return holding(self._tx, self._context.project_id, row["job_id"], row["path"], at=limit)

    def _gone(self, rows: Iterable[Row]) -> set[bytes]:
        return self._look(self._tx, self._context, sorted({row["manifest_id"] for row in rows}))

    def _lost(self, rows: Iterable[Row]) -> set[bytes]:
        return lost(self._tx, self._context, rows, self._look)

    def _doubted(self, rows: Iterable[Row]) -> set[bytes]:
        return doubtful(self._tx, self._context.project_id, sorted({row["manifest_id"] for row in rows}))


class Newest(NamedTuple):
    """Of snapshots that hold files."""

    of_all: Row | None = None
    whole: Row | None = None
    """The newest that is whole in the store."""


def newest_whole(pages: Iterable[Sequence[Row]], lost: Callable[[Sequence[Row]], Collection[bytes]]) -> Newest:
    """Among these, the newest first; `lost` says which of a page are not whole."""
    newest: Row | None = None
    for page in pages:
        newest = newest or page[0]
        gone = lost(page)
        whole = next((row for row in page if row["manifest_id"] not in gone), None)
        if whole is not None:
            return Newest(newest, whole)
    return Newest(newest)


def lost(
    tx: Transaction, context: Context, rows: Iterable[Row], look: Callable[..., set[bytes]] = lacking
) -> set[bytes]:
    """Which of these snapshots are gone from the store, or were found by a repair to name something that is; `look`
    may hold the others there (`catalog.hold_for`)."""
    ids = sorted({row["manifest_id"] for row in rows})
    return look(tx, context, ids) | doubtful(tx, context.project_id, ids)
