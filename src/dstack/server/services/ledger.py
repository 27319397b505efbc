"""What the database says of the store: packs, the chunks in them, and who refers to which snapshot.

Everything comes in pages, each a read of its own: a check goes on for hours, and no transaction lasts that long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

from sqlalchemy import and_, bindparam, func, literal, select

from dstack.server.db.engine import Transaction
from dstack.server.db.tables import artifacts, chunks, jobs, packs, runs
from dstack.server.db.types import Id
from dstack.server.services.context import Context
from dstack.snapshots.checking import Damage
from dstack.snapshots.interfaces import ChunkLocation

T = TypeVar("T")
PAGE: Final = 500
Frame = dict[str, Any]
"""What a check or a repair says, as docs/design/interfaces.md lists it."""
_FIRST = UUID(int=0)


class Reference(NamedTuple):
    """Who refers to a snapshot: an artifact of a job, or a run to its code (then `job` and `path` are empty)."""

    run: str
    job: str
    path: str
    manifest_id: bytes
    at: int
    live: bool


@dataclass(frozen=True, slots=True)
class Scope:
    """What is looked at: everything, or these (run, workflow); a workflow of None is the whole run with its code."""

    runs: tuple[tuple[UUID, str | None], ...] | None = None

    @property
    def is_everything(self) -> bool:
        return self.runs is None


class Ledger:
    """Reads of one project; see `services.heal` for what writes."""

    def __init__(self, context: Context) -> None:
        self._database = context.database
        self._project_id = context.project_id

    def packs(self) -> Iterator[tuple[bytes, int]]:
        """(id, size) of every pack but those that were emptied and go soon, in order of ids."""
        last = b""
        while page := self._read(lambda tx, after=last: tx.execute(_PACKS, self._page(after)).all()):
            yield from ((bytes(row.pack_id), row.size) for row in page)
            last = bytes(page[-1].pack_id)

    def recorded_since(self, since: int) -> Iterator[bytes]:
        """Those of `packs` that were recorded at that time or later."""
        last = b""
        while page := self._read(
            lambda tx, after=last: tx.execute(_RECORDED, {**self._page(after), "since": since}).all()
        ):
            yield from (bytes(row.pack_id) for row in page)
            last = bytes(page[-1].pack_id)

    def size(self) -> int:
        """Bytes of all of `packs`."""
        query = select(func.coalesce(func.sum(packs.c.size), 0)).where(
            packs.c.project_id == self._project_id, packs.c.condemned_at.is_(None)
        )
        return int(self._read(lambda tx: tx.execute(query).scalar_one()))

    def packs_of_nobody(self, pack_ids: Sequence[bytes]) -> list[bytes]:
        """Of these, those that no project has."""
        query = select(packs.c.pack_id).where(packs.c.pack_id.in_(pack_ids))
        known = self._read(lambda tx: {bytes(pack_id) for pack_id in tx.execute(query).scalars()})
        return [pack_id for pack_id in pack_ids if pack_id not in known]

    def listed(self, pack_ids: Sequence[bytes]) -> dict[bytes, int]:
        """Of these, those that are among `packs`, with their sizes."""
        query = select(packs.c.pack_id, packs.c.size).where(
            packs.c.project_id == self._project_id, packs.c.pack_id.in_(pack_ids), packs.c.condemned_at.is_(None)
        )
        return self._read(lambda tx: {bytes(pack_id): size for pack_id, size in tx.execute(query)})

    def unlisted(self) -> Iterator[bytes]:
        """Packs that chunks are said to lie in, and that are not in the list of packs."""
        last = b""
        while page := self._read(lambda tx, after=last: tx.execute(_UNLISTED, self._page(after)).scalars().all()):
            yield from map(bytes, page)
            last = bytes(page[-1])

    def rows_of(self, pack_id: bytes) -> dict[bytes, ChunkLocation]:
        """The chunks that are said to lie in a pack."""
        values = {"project": self._project_id, "pack": pack_id}
        found = self._read(lambda tx: tx.execute(_ROWS_OF, values).all())
        return {bytes(row[0]): ChunkLocation(pack_id, row[1], row[2], row[3], row[4]) for row in found}

    def references(self, scope: Scope) -> Iterator[Reference]:
        """Every snapshot that the scope's runs refer to; equal ones as often as they are referred to."""
        if scope.runs is None:
            yield from self._paged(_ARTIFACTS, {})
            yield from self._paged(_CODE, {})
            return
        for run_id, workflow in scope.runs:
            yield from self._paged(_ARTIFACTS_OF, {"run": run_id}, workflow)
            if workflow is None:
                yield from self._paged(_CODE_OF, {"run": run_id})

    def _paged(self, query: Any, values: Mapping[str, Any], workflow: str | None = None) -> Iterator[Reference]:
        last = _FIRST
        while page := self._read(lambda tx, after=last: tx.execute(query, {**self._page(after), **values}).all()):
            for row in page:
                if workflow in (None, row.workflow):
                    yield Reference(row.run, row.job, row.path, bytes(row.manifest_id), row.at, bool(row.live))
            last = page[-1].id

    def _page(self, after: bytes | UUID) -> dict[str, Any]:
        return {"project": self._project_id, "after": after}

    def _read(self, work: Callable[[Transaction], T]) -> T:
        return self._database.read(work)


def damage_frame(damage: Damage) -> Frame:
    pack = damage.pack_id.hex() if damage.pack_id is not None else None
    return {"t": "damage", "kind": damage.kind, "id": damage.id.hex(), "pack": pack, "what": damage.what}


_PROJECT = bindparam("project", type_=Id)
_AFTER = bindparam("after", type_=Id)
_PACKS = (
    select(packs.c.pack_id, packs.c.size)
    .where(packs.c.project_id == _PROJECT, packs.c.pack_id > bindparam("after"), packs.c.condemned_at.is_(None))
    .order_by(packs.c.pack_id)
    .limit(PAGE)
)
_RECORDED = _PACKS.where(packs.c.created_at >= bindparam("since"))
_UNLISTED = (
    select(chunks.c.pack_id)
    .distinct()
    .where(
        chunks.c.project_id == _PROJECT,
        chunks.c.pack_id > bindparam("after"),
        ~select(packs.c.pack_id)
        .where(packs.c.project_id == chunks.c.project_id, packs.c.pack_id == chunks.c.pack_id)
        .exists(),
    )
    .order_by(chunks.c.pack_id)
    .limit(PAGE)
)
# SQLite would look through all chunks of the project for those of a pack: only the ids alone come from its index.
_IDS_OF = select(chunks.c.chunk_id).where(chunks.c.project_id == _PROJECT, chunks.c.pack_id == bindparam("pack"))
_ROWS_OF = select(
    chunks.c.chunk_id, chunks.c.offset, chunks.c.stored_length, chunks.c.raw_length, chunks.c.codec
).where(chunks.c.project_id == _PROJECT, chunks.c.chunk_id.in_(_IDS_OF), chunks.c.pack_id == bindparam("pack"))
_ARTIFACTS = (
    select(
        artifacts.c.id, runs.c.name.label("run"), jobs.c.name.label("job"), jobs.c.workflow, artifacts.c.path,
        artifacts.c.manifest_id, artifacts.c.taken_at.label("at"), artifacts.c.live,
    )
    .join(jobs, and_(jobs.c.project_id == artifacts.c.project_id, jobs.c.id == artifacts.c.job_id))
    .join(runs, and_(runs.c.project_id == artifacts.c.project_id, runs.c.id == artifacts.c.run_id))
    .where(artifacts.c.project_id == _PROJECT, artifacts.c.id > _AFTER)
    .order_by(artifacts.c.id)
    .limit(PAGE)
)  # fmt: skip
_ARTIFACTS_OF = _ARTIFACTS.where(artifacts.c.run_id == bindparam("run", type_=Id))
_CODE = (
    select(
        runs.c.id, runs.c.name.label("run"), runs.c.workflow, runs.c.code_manifest_id.label("manifest_id"),
        runs.c.submitted_at.label("at"), literal("").label("job"), literal("").label("path"),
        literal(0).label("live"),
    )
    .where(runs.c.project_id == _PROJECT, runs.c.id > _AFTER, runs.c.code_manifest_id.is_not(None))
    .order_by(runs.c.id)
    .limit(PAGE)
)  # fmt: skip
_CODE_OF = _CODE.where(runs.c.id == bindparam("run", type_=Id))
