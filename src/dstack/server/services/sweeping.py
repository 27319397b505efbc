"""Taking out of the catalog what nothing needs, and condemning the packs that are left empty.

An object in the catalog promises that all it names is there too, and at any moment a writer may ask for one and rely
on that. So objects go first, each before what it names; where a pack was asked about meanwhile, what is still in it
stays, with all that its objects name; and pieces of files go when no object is left that could name them.
Every transaction is short, and proves again, with the rows of its packs locked, that nobody asked about them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeVar

from sqlalchemy import delete, exists, select, update

from dstack.domain.parts import parts
from dstack.server.db.engine import Transaction, declare_write
from dstack.server.db.tables import chunks, packs
from dstack.server.services.chunk_index import GONE, HELD, NEEDED, ChunkIndex
from dstack.server.services.context import Context
from dstack.server.services.dead_objects import Dead, DeadObjects
from dstack.server.services.marking import Marker, Tick
from dstack.server.services.named_leases import Lease

T = TypeVar("T")
SWEEP: Final = declare_write("gc.sweep")
CONDEMN: Final = declare_write("gc.condemn")
BATCH: Final = 500
"""Rows of one transaction."""
READ_AT_ONCE: Final = 1024


class Sweeper:
    """Sweeps a marked index. What was asked about at `until` or later is left alone."""

    def __init__(self, context: Context, index: ChunkIndex, marker: Marker, lease: Lease, until: int) -> None:
        self.chunks = 0
        """Rows that were taken out."""
        self.condemned: list[int] = []
        """Numbers of the packs that were left empty."""
        self._context = context
        self._index = index
        self._marker = marker
        self._lease = lease
        self._until = until

    def sweep(self) -> Tick:
        dead = DeadObjects(len(self._index))
        numbers = self._packs_with_dead()
        yield from self._find_objects(numbers, dead)
        for batch in dead.in_order(BATCH):
            yield from self._drop_objects(dead, batch)
        yield from self._drop_pieces(numbers)
        yield from self.condemn(self._packs_without_chunks())

    def condemn(self, numbers: Iterable[int]) -> Tick:
        """Have those packs go that no chunk lies in any more."""
        for part in parts(numbers, BATCH):
            found = self._context.database.write(CONDEMN, lambda tx, part=part: self._condemn(tx, part))
            self.condemned += found
            yield

    def _packs_with_dead(self) -> list[int]:
        found = {self._index.pack_of(position) for position in self._index.without(NEEDED | HELD)}
        return sorted(found - {-1})

    def _packs_without_chunks(self) -> list[int]:
        """Also those that never had any of their own: their chunks lay in others already."""
        with_chunks = {self._index.pack_of(position) for position in self._index.without(GONE)}
        return [
            number
            for number, pack in enumerate(self._index.packs)
            if pack.condemned_at is None and number not in with_chunks
        ]

    # --- objects ----------------------------------------------------------------------------------------------

    def _find_objects(self, numbers: Iterable[int], dead: DeadObjects) -> Tick:
        for number in numbers:
            rows = [row for row in self._marker.rows_of(number) if self._is_dead(row[0])]
            for object_id in self._marker.objects_in(rows):
                dead.add(Dead(self._index.find(object_id), object_id))
            self._lease.keep()
            yield
        for part in parts((found.object_id for found in dead), READ_AT_ONCE):
            for object_id, names in self._marker.names(part, 0):
                named = (self._index.find(name) for name in (*names.objects, *names.pages))
                dead.set_names(self._index.find(object_id), named)
            self._lease.keep()
            yield

    def _drop_objects(self, dead: DeadObjects, batch: Sequence[Dead]) -> Tick:
        """Drop these, all or none: where a pack of them was asked about, after keeping what stays because of it."""
        while True:
            left = [found for found in batch if not self._index.flags[found.position] & HELD]
            asked: set[int] = set()
            if left:
                asked = self._context.database.write(SWEEP, lambda tx, left=left: self._drop(tx, left))
            yield
            if not asked:
                break
            for number in asked:
                kept = [
                    found for found in dead if self._index.pack_of(found.position) == number and self._is_left(found)
                ]
                yield from self._marker.follow([found.object_id for found in kept], HELD)
        self._note_gone(found.position for found in left)

    def _drop(self, tx: Transaction, found: Sequence[Dead]) -> set[int]:
        """Drop all of them, or none and say which of their packs were asked about."""
        self._lease.write(tx)
        numbers = {self._index.pack_of(each.position) for each in found}
        free = self._lock_free(tx, numbers)
        if free < numbers:
            return numbers - free
        self._delete(tx, [each.object_id for each in found], free)
        return set()

    # --- pieces of files --------------------------------------------------------------------------------------

    def _drop_pieces(self, numbers: Iterable[int]) -> Tick:
        for batch in parts(self._dead_rows(numbers), BATCH):
            gone = self._context.database.write(SWEEP, lambda tx, batch=batch: self._drop_free(tx, batch))
            self._note_gone(self._index.find(chunk_id) for _, chunk_id in gone)
            yield

    def _dead_rows(self, numbers: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        for number in numbers:
            for chunk_id, _ in self._marker.rows_of(number):
                if self._is_dead(chunk_id):
                    yield number, chunk_id

    def _drop_free(self, tx: Transaction, batch: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """Drop those whose packs nobody asked about; which."""
        self._lease.write(tx)
        free = self._lock_free(tx, {number for number, _ in batch})
        gone = [(number, chunk_id) for number, chunk_id in batch if number in free]
        self._delete(tx, [chunk_id for _, chunk_id in gone], free)
        return gone

    # --- both -------------------------------------------------------------------------------------------------

    def _lock_free(self, tx: Transaction, numbers: Iterable[int]) -> set[int]:
        """Of these packs, those that nobody asked about; nobody can before the transaction ends."""
        ids = sorted(self._index.packs[number].pack_id for number in numbers)
        found = tx.execute(
            select(packs.c.pack_id, packs.c.asked_at)
            .where(packs.c.project_id == self._context.project_id, packs.c.pack_id.in_(ids))
            .order_by(packs.c.pack_id)
            .with_for_update()
        )
        return {self._index.numbers[bytes(pack_id)] for pack_id, asked_at in found if asked_at < self._until}

    def _delete(self, tx: Transaction, chunk_ids: Sequence[bytes], numbers: Iterable[int]) -> None:
        lie_in = [self._index.packs[number].pack_id for number in numbers]
        if chunk_ids:
            tx.execute(
                delete(chunks).where(
                    chunks.c.project_id == self._context.project_id,
                    chunks.c.chunk_id.in_(chunk_ids),
                    chunks.c.pack_id.in_(lie_in),
                )
            )

    def _condemn(self, tx: Transaction, numbers: Sequence[int]) -> list[int]:
        self._lease.write(tx)
        project_id = self._context.project_id
        free = sorted(self._index.packs[number].pack_id for number in self._lock_free(tx, numbers))
        full = exists(
            select(chunks.c.chunk_id).where(chunks.c.project_id == project_id, chunks.c.pack_id == packs.c.pack_id)
        )
        empty = select(packs.c.pack_id).where(
            packs.c.project_id == project_id, packs.c.pack_id.in_(free), packs.c.condemned_at.is_(None), ~full
        )
        found = [bytes(pack_id) for pack_id in tx.execute(empty).scalars()]
        if found:
            tx.execute(
                update(packs)
                .where(packs.c.project_id == project_id, packs.c.pack_id.in_(found))
                .values(condemned_at=tx.now)
            )
        return [self._index.numbers[pack_id] for pack_id in found]

    def _is_dead(self, chunk_id: bytes) -> bool:
        position = self._index.find(chunk_id)
        return position >= 0 and not self._index.flags[position] & (NEEDED | HELD | GONE)

    def _is_left(self, found: Dead) -> bool:
        return not self._index.flags[found.position] & GONE

    def _note_gone(self, positions: Iterable[int]) -> None:
        for position in positions:
            self._index.mark(position, GONE)
            self.chunks += 1
