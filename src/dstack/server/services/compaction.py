"""Packs that are more than half dead, and small ones: what lives in them moves into new ones, verified, and they are
condemned.

Where a chunk lies may change at any moment for a reader, who looks for it once more (`snapshots/store.py`); what a
writer was told stays true, for the new packs count as asked about.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from dstack.domain.parts import parts
from dstack.server.db.engine import Transaction, declare_write
from dstack.server.services.catalog import Move, move_chunks, record_packs
from dstack.server.services.chunk_index import GONE, ChunkIndex
from dstack.server.services.context import Context
from dstack.server.services.marking import Marker, Rows, Tick
from dstack.server.services.named_leases import Lease
from dstack.snapshots.checking import read_through
from dstack.snapshots.errors import CorruptChunk
from dstack.snapshots.interfaces import ChunkEntry, ChunkLocation, pack_key
from dstack.snapshots.packs import PackBuilder, decode_chunk
from dstack.snapshots.store import Durable
from dstack.snapshots.writer import fills_a_pack, is_full, is_small

MOVE: Final = declare_write("gc.move")
BATCH: Final = 500
"""Rows of one transaction."""
MANY: Final = 64
"""Small packs that are put together although they do not fill one of the usual size."""


def half_dead(index: ChunkIndex, alive: Iterable[int], until: int) -> list[int]:
    """The packs of whose bytes less than half live, some do, and nobody asked about lately; `alive` is by pack."""
    return [
        number
        for number, (pack, living) in enumerate(zip(index.packs, alive, strict=True))
        if 0 < living * 2 < pack.size and pack.asked_at < until and pack.condemned_at is None
    ]


def small(index: ChunkIndex, alive: Sequence[int], until: int) -> list[int]:
    """The small packs that live and that nobody asked about lately, oldest first; none where they are few.

    A job that saves every few seconds for days leaves thousands. What is made of them is full, or is among fewer than
    MANY: so nothing is packed anew over and over.
    """
    counts = index.counts()
    found = [
        number
        for number, pack in enumerate(index.packs)
        if is_small(pack.size, counts[number])
        and alive[number] * 2 >= pack.size
        and pack.asked_at < until
        and pack.condemned_at is None
    ]
    if len(found) < MANY and not fills_a_pack(sum(alive[number] for number in found)):
        return []
    return sorted(found, key=lambda number: index.packs[number].created_at)


class Compactor:
    """Moves the chunks of packs, given by number. `emptied` are those that can go then; `damaged` are left alone."""

    def __init__(self, context: Context, index: ChunkIndex, marker: Marker, lease: Lease) -> None:
        self.emptied: list[int] = []
        self.damaged: list[bytes] = []
        self.written = 0
        """Bytes of new packs."""
        self._context = context
        self._index = index
        self._marker = marker
        self._lease = lease
        self._builders = {False: PackBuilder(), True: PackBuilder()}
        """Of pieces of files, and of objects: each reads better alone, and is looked for alone."""
        self._from: dict[bytes, bytes] = {}
        """Chunk → the pack it comes from, for those that are in a builder."""

    def compact(self, numbers: Iterable[int]) -> Tick:
        for number in numbers:
            rows = self._marker.rows_of(number)
            if rows and (found := self._verified(number, rows)):
                yield from self._take_in(number, rows, found)
                self.emptied.append(number)
            yield
        for kind in self._builders:
            yield from self._write(kind)

    def _verified(self, number: int, rows: Rows) -> list[memoryview]:
        """The chunks of a pack as they are stored; none where one is not what it should be.

        What is dead in it may be where the disk fails.
        """
        pack_id = self._index.packs[number].pack_id
        found: list[memoryview] = []
        try:
            data = memoryview(read_through(self._context.blobs, pack_key(pack_id)))
            for chunk_id, place in rows:
                stored = data[place.offset : place.offset + place.stored_length]
                decode_chunk(chunk_id, place, stored)
                found.append(stored)
        except (KeyError, CorruptChunk):
            self.damaged.append(pack_id)
            return []
        return found

    def _take_in(self, number: int, rows: Rows, found: list[memoryview]) -> Tick:
        """Put the chunks of a pack into the builders, and write those that are full."""
        objects = set(self._marker.objects_in(rows))
        for (chunk_id, place), stored in zip(rows, found, strict=True):
            kind = chunk_id in objects
            if is_full(self._builders[kind], len(stored)):
                yield from self._write(kind)
            self._builders[kind].add_stored(chunk_id, stored, place.raw_length, place.codec)
            self._from[chunk_id] = self._index.packs[number].pack_id

    def _write(self, kind: bool) -> Tick:
        builder, self._builders[kind] = self._builders[kind], PackBuilder()
        if builder.empty:
            return
        data, pack = builder.seal()
        blobs = self._context.blobs
        blobs.put(pack_key(pack.pack_id), data)
        if isinstance(blobs, Durable):
            blobs.sync()  # the only copy, once the rows are moved and the old pack goes
        self.written += len(data)
        recorded = False
        for part in parts(pack.chunks, BATCH):

            def write(tx: Transaction, part: list[ChunkEntry] = part, first: bool = not recorded) -> None:
                self._lease.write(tx)
                if first:
                    record_packs(tx, self._context.project_id, [pack], blobs)
                move_chunks(tx, self._context.project_id, [self._move(entry, pack.pack_id) for entry in part])

            self._context.database.write(MOVE, write)
            recorded = True
            yield

    def _move(self, entry: ChunkEntry, pack_id: bytes) -> Move:
        place = ChunkLocation(pack_id, entry.offset, entry.stored_length, entry.raw_length, entry.codec)
        return Move(entry.chunk_id, self._from.pop(entry.chunk_id), place)


def alive_bytes(index: ChunkIndex) -> list[int]:
    """By pack, the stored bytes of the chunks that were not taken out."""
    found = [0] * len(index.packs)
    for position in index.without(GONE):
        number = index.pack_of(position)
        if number >= 0:
            found[number] += index.length_of(position)
    return found
