"""What of the store is needed: a walk from everything that refers to a snapshot, through all that it names.

What somebody refers to is NEEDED. What only a save under way may rely on is HELD: the packs that were asked about
lately, and all that the objects in them name, for a writer that was told of a folder's object asks about nothing
below it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy import bindparam, select

from dstack.domain.lifecycle.run import TERMINAL
from dstack.server.db.engine import Transaction
from dstack.server.db.tables import artifacts, chunks, code_snapshots, packs, runs, steps
from dstack.server.db.types import Id
from dstack.server.services.catalog import store_of
from dstack.server.services.chunk_index import HELD, NEEDED, READ, ChunkIndex, Pack
from dstack.server.services.context import Context
from dstack.server.services.stored import StoredPlan
from dstack.snapshots.checking import Names, begins_like_an_object, names_in
from dstack.snapshots.errors import DamagedStore
from dstack.snapshots.interfaces import ChunkLocation
from dstack.snapshots.manifests import FileEntry

PAGE: Final = 5000
BATCH: Final = 1024
"""Objects that are read at a time."""
MOST_DAMAGED: Final = 1000

Rows = list[tuple[bytes, ChunkLocation]]
Tick = Iterator[None]
"""A generator that may be left at any step, and lets others work meanwhile."""


class Without(NamedTuple):
    """Artifacts and runs that are about to go: what they refer to does not count."""

    artifacts: Collection[UUID] = frozenset()
    runs: Collection[UUID] = frozenset()


class Damaged(NamedTuple):
    """An object that somebody refers to and that cannot be read, so that nobody knows what it names."""

    object_id: bytes
    why: str


def load_index(context: Context) -> Iterator[ChunkIndex | None]:
    """The index, last, after a None for each page that was read. What is added meanwhile may lack in it."""
    project_id, database = context.project_id, context.database
    query = select(packs.c.pack_id, packs.c.size, packs.c.asked_at, packs.c.condemned_at, packs.c.created_at)
    found = database.read(lambda tx: tx.execute(query.where(packs.c.project_id == project_id)).all())
    index = ChunkIndex(Pack(bytes(row[0]), *row[1:]) for row in found)
    last = b""
    while True:
        values = {"project": project_id, "after": last}
        page = database.read(lambda tx, values=values: tx.execute(_CHUNKS, values).all())
        for chunk_id, pack_id, length in page:
            index.append(bytes(chunk_id), bytes(pack_id), length)
        if len(page) < PAGE:
            break
        last = bytes(page[-1][0])
        yield None
    yield index


class Marker:
    """Marks an index. `damaged` are needed objects that could not be read; `alive` is called now and then."""

    def __init__(self, context: Context, index: ChunkIndex, alive: Callable[[], None]) -> None:
        self.damaged: list[Damaged] = []
        self._context = context
        self._index = index
        self._alive = alive
        self._store = store_of(context)
        self._later: set[bytes] = set()
        """Objects that the index lacks, and that were read."""

    def needed(self, without: Without, code_since: int) -> Tick:
        """Mark what is referred to. Code that no run uses counts where it was shipped after `code_since`."""
        roots = self._context.database.read(
            lambda tx: list(_references(tx, self._context.project_id, without, code_since))
        )
        yield from self.follow(roots, NEEDED)

    def held(self, numbers: Iterable[int]) -> Tick:
        """Mark all that lies in packs, and all that objects in them name."""
        chosen = set(numbers)
        for position in range(len(self._index)):
            if self._index.pack_of(position) in chosen:
                self._index.mark(position, HELD)
        for number in sorted(chosen):
            yield from self.follow(self.objects_in(self.rows_of(number)), HELD)

    def rows_of(self, number: int) -> Rows:
        """The chunks that lie in a pack now, in the order of the pack."""
        pack_id = self._index.packs[number].pack_id
        values = {"project": self._context.project_id, "pack": pack_id}
        found = self._context.database.read(lambda tx: tx.execute(_ROWS_OF, values).all())
        return [(bytes(row[0]), ChunkLocation(pack_id, *row[1:])) for row in found]

    def objects_in(self, rows: Rows) -> list[bytes]:
        """The objects among chunks of one pack, given in its order.

        Pieces of files stand before objects in a pack (docs/formats/snapshots.md, section 2), so few need be read.
        """
        if not rows or not self._is_object(*rows[-1]):
            return []
        low, high = 0, len(rows) - 1
        while low < high:
            middle = (low + high) // 2
            if self._is_object(*rows[middle]):
                high = middle
            else:
                low = middle + 1
        return [chunk_id for chunk_id, _ in rows[low:]]

    def follow(self, object_ids: Iterable[bytes], flag: int) -> Tick:
        """Mark objects and all that they name."""
        waiting = list(object_ids)
        while waiting:
            batch = [object_id for object_id in waiting[-BATCH:] if self._is_new(object_id, flag)]
            del waiting[-BATCH:]
            for _, names in self.names(batch, flag):
                for entry in names.entries:
                    if isinstance(entry, FileEntry) and entry.size:
                        self._mark_file(entry, flag)
                waiting += (*names.objects, *names.pages)
            self._alive()
            yield

    def names(self, object_ids: Iterable[bytes], flag: int) -> Iterator[tuple[bytes, Names]]:
        """What each of the objects names, but for those that cannot be read."""
        for object_id, data in self._store.try_chunks(object_ids):
            try:
                if isinstance(data, DamagedStore):
                    raise data
                yield object_id, names_in(object_id, data)
            except DamagedStore as error:
                # What nobody refers to may be no object at all, or have been taken out meanwhile.
                if flag == NEEDED and len(self.damaged) < MOST_DAMAGED:
                    self.damaged.append(Damaged(object_id, str(error)))

    def _mark_file(self, entry: FileEntry, flag: int) -> None:
        index = self._index
        if not entry.chunks:
            position = index.find(entry.digest)
            if position >= 0:
                index.mark(position, flag)
            return
        for start in range(0, len(entry.chunks), _REF_LENGTH):
            position = index.find(entry.chunks[start : start + _ID_LENGTH])
            if position >= 0:
                index.mark(position, flag)

    def _is_new(self, object_id: bytes, flag: int) -> bool:
        position = self._index.find(object_id)
        if position >= 0:
            self._index.mark(position, flag)
            return self._index.mark(position, READ)
        if object_id in self._later:
            return False
        self._later.add(object_id)
        return True

    def _is_object(self, chunk_id: bytes, place: ChunkLocation) -> bool:
        position = self._index.find(chunk_id)
        flags = self._index.flags[position] if position >= 0 else 0
        if flags & (NEEDED | READ):
            return bool(flags & READ)
        (_, data), *_ = self._store.try_located([(chunk_id, place)])
        return isinstance(data, DamagedStore) or begins_like_an_object(data)


def _references(tx: Transaction, project_id: UUID, without: Without, code_since: int) -> Iterator[bytes]:
    """The manifest ids that count, as of one moment; those that are named more than once perhaps as often."""
    seen: set[bytes] = set()
    for query in (_ARTIFACTS, _CODE):
        last = UUID(int=0)
        while page := tx.execute(query, {"project": project_id, "after": last}).all():
            for row in page:
                manifest_id = bytes(row.manifest_id)
                if row.run_id in without.runs or row.id in without.artifacts or manifest_id in seen:
                    continue
                seen.add(manifest_id)
                yield manifest_id
            last = page[-1].id
    shipped = select(code_snapshots.c.manifest_id).where(
        code_snapshots.c.project_id == project_id, code_snapshots.c.used_at >= code_since
    )
    yield from (bytes(manifest_id) for manifest_id in tx.execute(shipped).scalars())
    states = [state.value for state in TERMINAL]
    pinned = (
        select(steps.c.plan)
        .join(runs, (runs.c.project_id == steps.c.project_id) & (runs.c.id == steps.c.run_id))
        .where(steps.c.project_id == project_id, steps.c.plan.is_not(None), runs.c.state.not_in(states))
    )
    for plan in tx.execute(pinned).scalars():
        yield from (item.manifest_id for item in msgspec.msgpack.decode(plan, type=StoredPlan).inputs)


_ID_LENGTH = 32
_REF_LENGTH = 36
_PROJECT = bindparam("project", type_=Id)
_CHUNKS = (
    select(chunks.c.chunk_id, chunks.c.pack_id, chunks.c.stored_length)
    .where(chunks.c.project_id == _PROJECT, chunks.c.chunk_id > bindparam("after"))
    .order_by(chunks.c.chunk_id)
    .limit(PAGE)
)
# SQLite would look through all chunks of the project for those of a pack: only the ids alone come from its index.
_IDS_OF = select(chunks.c.chunk_id).where(chunks.c.project_id == _PROJECT, chunks.c.pack_id == bindparam("pack"))
_ROWS_OF = (
    select(chunks.c.chunk_id, chunks.c.offset, chunks.c.stored_length, chunks.c.raw_length, chunks.c.codec)
    .where(chunks.c.project_id == _PROJECT, chunks.c.chunk_id.in_(_IDS_OF), chunks.c.pack_id == bindparam("pack"))
    .order_by(chunks.c.offset)
)
_ARTIFACTS: Any = (
    select(artifacts.c.id, artifacts.c.run_id, artifacts.c.manifest_id)
    .where(artifacts.c.project_id == _PROJECT, artifacts.c.id > bindparam("after", type_=Id))
    .order_by(artifacts.c.id)
    .limit(PAGE)
)
_CODE: Any = (
    select(runs.c.id, runs.c.id.label("run_id"), runs.c.code_manifest_id.label("manifest_id"))
    .where(
        runs.c.project_id == _PROJECT,
        runs.c.code_manifest_id.is_not(None),
        runs.c.id > bindparam("after", type_=Id),
    )
    .order_by(runs.c.id)
    .limit(PAGE)
)
