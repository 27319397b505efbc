"""What jobs go back to that start again: what they had saved by a time, or one of their snapshots."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from dstack.domain.ports import SECOND
from dstack.server.db.engine import Transaction
from dstack.server.services.artifacts import NOW, named_in_run
from dstack.server.services.context import Context
from dstack.server.services.errors import BadRequest, NotFound

_SNAPSHOT: Final = re.compile(r"[0-9a-f]{8,64}")
_END: Final = 253_402_300_800_000_000
"""The end of the year 9999."""
_SHOWN: Final = 12
"""Digits of a snapshot's id that people see."""


class Moment(NamedTuple):
    """All jobs go back to `at` that time (microseconds UTC); or those that saved `named`, the newest first, to when
    they did; or none. `text` is what names the snapshot."""

    at: int | None = None
    named: Sequence[Mapping[str, Any]] = ()
    text: str = ""

    def limit(self, job_id: UUID) -> int:
        """The time that the job goes back to."""
        if self.at is not None:
            return self.at
        return max((row["at"] for row in self.named if row["job_id"] == job_id), default=NOW)


class Wanted(NamedTuple):
    """What was asked for: a time (microseconds UTC), digits of a snapshot's id, or neither."""

    at: int | None = None
    snapshot: str | None = None

    def check(self, *, fresh: bool) -> None:
        """Raises BadRequest for what cannot be meant."""
        if self.snapshot is not None and _SNAPSHOT.fullmatch(self.snapshot) is None:
            raise BadRequest(f"`{self.snapshot}` is no snapshot", hint="8 to 64 of the digits of its id name one")
        if self.at is not None and not 0 <= self.at < _END:
            raise BadRequest(f"`{self.at}` is no time", hint="times are microseconds UTC since 1970")
        if self.at is not None and self.snapshot is not None:
            raise BadRequest("a time and a snapshot were given", hint="give one of them")
        if fresh and self != NOT_ASKED:
            raise BadRequest("`fresh` begins without what was saved, `at` with what was", hint="give one of them")


NOT_ASKED: Final = Wanted()


def listing(run: str, follows: str) -> str:
    """What shows the snapshots of a run, and of the one that it follows, of which it has only what it began with."""
    more = f", `dstack artifacts log {follows}` those of the run that it follows" if follows else ""
    return f"`dstack artifacts log {run}` lists the snapshots{more}"


def resolve(tx: Transaction, context: Context, run_id: UUID, run: str, wanted: Wanted, listed: str) -> Moment:
    """Raises NotFound where the run has no such snapshot, BadRequest where it has several. `listed` as of `listing`."""
    snapshot = wanted.snapshot
    if snapshot is None:
        return Moment(wanted.at)
    found = named_in_run(tx, context.project_id, run_id, snapshot)
    ids = sorted({row["manifest_id"].hex() for row in found})
    if not ids:
        raise NotFound(
            f"there is no snapshot {snapshot[:_SHOWN]} of run {run}",
            hint=f"older ones may have been thinned: `dstack retention` says by which rules. {listed}",
        )
    if len(ids) > 1:
        shown = ", ".join(each[: max(_SHOWN, len(snapshot) + 4)] for each in ids)
        raise BadRequest(f"{len(ids)} snapshots of run {run} begin with {snapshot}: {shown}", hint="write more of it")
    newest: dict[tuple[UUID, str], Mapping[str, Any]] = {}
    for row in found:
        newest.setdefault((row["job_id"], row["path"]), row)
    return Moment(None, list(newest.values()), snapshot[:_SHOWN])


def told(at: int) -> str:
    """A time, for people."""
    return datetime.fromtimestamp(at // SECOND, UTC).isoformat(" ", "seconds").removesuffix("+00:00") + " UTC"
