"""Making a damaged store usable again: what is right stays, what is not is forgotten, so that saving again stores it.

A catalog that names damaged chunks keeps them damaged for ever: whoever saves the same content is told it is there.
So `repair` takes them out. Objects that name them stay, for the rest of a snapshot is read by them, but are doubted:
who saves them is told to write all of it again (docs/formats/snapshots.md, section 7). What is right in a damaged pack
is put into a new one, and the damaged one is copied aside; its blob goes in the transaction in which what it held is
taken out. `rebuild` makes the catalog again from the packs' own indexes.
Both may run beside saves and downloads: who saves what names something that is taken out is told to save it again.
They may be killed at any step: until all is known, every object that is taken up is doubted, and what the disk has lost
keeps everything from being recorded for good (`services/syncing.py`).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final, TypeVar

from sqlalchemy import delete, exists, select, update

from dstack.domain.parts import parts
from dstack.sdk.blobs import Buffer, ObjectInfo
from dstack.server.db.engine import Transaction, declare_write
from dstack.server.db.tables import chunks, packs
from dstack.server.services.catalog import Move, catalog_of, chunk_rows, move_chunks, record_packs
from dstack.server.services.context import Context
from dstack.server.services.doubts import doubt
from dstack.server.services.errors import BadRequest
from dstack.server.services.ledger import Frame, Ledger, damage_frame
from dstack.server.services.named_leases import Lease
from dstack.server.services.taking_out import ALIVE, DROP, TakingOut, listed, remove_packs, write_under
from dstack.snapshots.checking import Damage, check_pack, located, possible_objects, read_through
from dstack.snapshots.errors import BadPack, DamagedStore, StoreLost, StoreRefused
from dstack.snapshots.interfaces import ChunkLocation, PackIndex, pack_key
from dstack.snapshots.packs import id_of, read_index, repacked
from dstack.snapshots.spread import Bad, Spread
from dstack.snapshots.store import Durable, Losing, SnapshotStore

T = TypeVar("T")
ASIDE: Final = "quarantine/"
"""Where damaged packs are moved: nothing reads or lists them there, and they may be deleted."""
LIST = declare_write("heal.list")
CORRECT = declare_write("heal.correct")
TAKE_UP = declare_write("heal.take_up")
_LENGTH: Final = 32


class Healer:
    """Acts on what `spread` knows to be bad or broken, while `lease` is held; without one where nobody else is served.

    The lease is `named_leases.GC`: whoever moves or takes out chunks at the same time would be misled.
    """

    def __init__(self, context: Context, spread: Spread, lease: Lease | None) -> None:
        self._context = context
        self._blobs = context.blobs
        self._database = context.database
        self._project_id = context.project_id
        self._spread = spread
        self._lease = lease
        self._ledger = Ledger(context)
        self._catalog = catalog_of(context)
        self._store = SnapshotStore(context.blobs, self._catalog)
        self._going: dict[bytes, int] = {}
        """Packs whose bytes are set aside, and how many chunks of each were moved; their blobs are still there."""
        self._gone: set[bytes] = set()
        self._counts = {
            "corrected": 0,
            "restored": 0,
            "dropped": 0,
            "doubtful": 0,
            "moved_packs": 0,
            "moved_chunks": 0,
            "left": 0,
        }

    def repair(self) -> Iterator[Frame]:
        """Correct, forget and move aside; `repaired` frames say what was done."""
        for pack_id in self._ledger.unlisted():
            found = self._blobs.stat(pack_key(pack_id))
            if found is not None:
                self._list(pack_id, found.size)
        for pack_id in self._spread.all_broken():
            yield from self._examine(pack_id)
        yield from self._find_copies()
        for pack_id in self._spread.all_broken():
            yield from self._replace(pack_id)
        yield from self._forget()
        yield from self._told_of_going()
        self._strike_gone()
        if isinstance(self._blobs, Losing):
            self._blobs.let_go(map(pack_key, (*self._going, *self._gone)))
        yield {"t": "repaired", **self._counts}

    def set_aside(self) -> Iterator[Frame]:
        """Have nothing lie in a broken pack any more: what is right is put into a new one, rows of the rest go."""
        for pack_id in self._spread.all_broken():
            yield from self._replace(pack_id)
        self._write(DROP, lambda tx: remove_packs(tx, self._project_id, self._blobs, self._going))
        yield from self._told_of_going()
        self._strike_gone()

    def rebuild(self) -> Iterator[Frame]:
        """Make the catalog again from the packs: rows that lie are corrected or dropped, lost ones restored."""
        for info in self._stored():
            yield from self._correct(info)
        for pack_id in listed(self._ledger):
            if self._is_gone(pack_id):
                self._spread.mark_broken(pack_id)
            yield ALIVE
        self._mark_gone()
        yield from self._find_copies(restore_all=True)
        yield from self._forget()
        self._strike_gone()
        yield {"t": "rebuilt", **self._counts}

    def _examine(self, pack_id: bytes) -> Iterator[Frame]:
        """Find what else is wrong in a pack: a check of some runs has looked at their chunks only."""
        rows = self._ledger.rows_of(pack_id)
        try:
            wrong = check_pack(pack_id, read_through(self._blobs, pack_key(pack_id)), rows).wrong
        except KeyError:
            wrong = dict.fromkeys(rows, "its pack is gone from the store")
        for chunk_id in wrong.keys() & rows.keys():
            if self._spread.mark_bad(Bad(chunk_id, pack_id, wrong[chunk_id])):
                yield damage_frame(Damage("chunk", chunk_id, pack_id, wrong[chunk_id]))
        yield ALIVE

    # --- rows that are not right ----------------------------------------------------------------------------------

    def _correct(self, info: ObjectInfo) -> Iterator[Frame]:
        """Hold the rows of one stored pack against its index; where that is damaged, against its bytes."""
        pack_id = id_of(info.key)
        self._list(pack_id, info.size)
        rows = self._ledger.rows_of(pack_id)
        try:
            index = located(self._index(info))
        except KeyError:
            return  # freed meanwhile
        except BadPack as error:
            yield damage_frame(Damage("pack", pack_id, pack_id, error.detail))
            index = check_pack(pack_id, read_through(self._blobs, info.key), rows).right
        lies = {chunk_id: index.get(chunk_id) for chunk_id, place in rows.items() if index.get(chunk_id) != place}
        self._move_rows(pack_id, {chunk_id: place for chunk_id, place in lies.items() if place is not None})
        for chunk_id, place in lies.items():
            if place is None:
                self._spread.mark_bad(Bad(chunk_id, pack_id, "its pack does not have it"))
            else:
                self._counts["corrected"] += 1
        yield ALIVE

    def _find_copies(self, *, restore_all: bool = False) -> Iterator[Frame]:
        """Look in the packs for what the catalog lacks or has wrong; with `restore_all`, for all that is stored."""
        for info in self._stored():
            try:
                index = self._index(info)
            except (BadPack, KeyError):
                continue
            for part in parts(located(index).items()):
                bad = self._spread.bad_among([chunk_id for chunk_id, _ in part])
                wanted = {chunk_id: place for chunk_id, place in part if chunk_id in bad}
                if restore_all:
                    known = self._catalog.locate([chunk_id for chunk_id, _ in part])
                    wanted |= {chunk_id: place for chunk_id, place in part if chunk_id not in known}
                self._take_up(index, wanted, bad)
            yield ALIVE

    def _take_up(self, index: PackIndex, wanted: Mapping[bytes, ChunkLocation], bad: set[bytes]) -> None:
        """Have the catalog find chunks in a pack: those that are `bad` elsewhere only if they are right here."""
        usable = {chunk_id: place for chunk_id, place in wanted.items() if chunk_id not in bad}
        for chunk_id, data in self._store.try_located((item, wanted[item]) for item in wanted if item in bad):
            if not isinstance(data, DamagedStore):
                usable[chunk_id] = wanted[chunk_id]
        if not usable:
            return
        before = self._catalog.locate(list(usable))
        moves = [
            Move(chunk_id, before[chunk_id].pack_id, place)
            for chunk_id, place in usable.items()
            if chunk_id in before and before[chunk_id] != place
        ]
        entries = tuple(entry for entry in index.chunks if entry.chunk_id in usable)
        with suppress(KeyError, BadRequest):  # the pack was freed meanwhile
            objects = list(possible_objects(self._blobs, usable))
            self._write(
                TAKE_UP, lambda tx: self._add(tx, PackIndex(index.pack_id, index.size, entries), moves, objects)
            )
            self._spread.forget_bad(usable)
            self._counts["restored"] += len(usable)

    def _add(self, tx: Transaction, pack: PackIndex, moves: Sequence[Move], objects: Sequence[bytes]) -> None:
        """Record chunks of a pack. Whether there is all that `objects` name is known at the end only: until then they
        are doubted, so that nobody who saves relies on them. One that was doubted before is no better for it."""
        record_packs(tx, self._project_id, [pack], self._blobs)
        move_chunks(tx, self._project_id, moves)
        tx.insert_missing(chunks, chunk_rows(self._project_id, pack))
        doubt(tx, self._project_id, objects)

    def _move_rows(self, pack_id: bytes, places: Mapping[bytes, ChunkLocation]) -> None:
        """Change where chunks are said to lie, of those that are still said to lie in `pack_id`."""
        moves = [Move(chunk_id, pack_id, place) for chunk_id, place in places.items()]
        if moves:
            self._write(CORRECT, lambda tx: move_chunks(tx, self._project_id, moves))

    # --- what cannot be had any more --------------------------------------------------------------------------------

    def _forget(self) -> Iterator[Frame]:
        """Take what is bad out of the catalog, with all that lies in packs that are gone."""
        self._mark_gone()
        taking = TakingOut(self._context, self._spread, self._lease, self._going)
        yield from taking.steps()
        self._counts["dropped"] += taking.dropped
        self._counts["doubtful"] = taking.doubtful

    def _mark_gone(self) -> None:
        for pack_id in self._spread.all_broken():
            if self._is_gone(pack_id):
                self._gone.add(pack_id)
                for chunk_id in self._ledger.rows_of(pack_id):
                    self._spread.mark_bad(Bad(chunk_id, pack_id, "its pack is gone from the store"))

    def _is_gone(self, pack_id: bytes) -> bool:
        return self._blobs.stat(pack_key(pack_id)) is None

    # --- packs that are not as they were written ----------------------------------------------------------------------

    def _replace(self, pack_id: bytes) -> Iterator[Frame]:
        """Put what is right in a pack into a new one, and copy the pack aside; it is `going` then."""
        key = pack_key(pack_id)
        try:
            data = read_through(self._blobs, key)
        except KeyError:
            return
        rows = self._ledger.rows_of(pack_id)
        found = check_pack(pack_id, data, rows)
        if not found.whole:
            self._list(pack_id, len(data))
            return
        view = memoryview(data)
        try:
            moved = self._move(
                pack_id, {chunk_id: place for chunk_id, place in found.right.items() if chunk_id in rows}, view
            )
            self._blobs.put(f"{ASIDE}{pack_id.hex()}", data)
        except (StoreRefused, BadRequest) as error:
            self._counts["left"] += 1
            yield {"t": "left", "pack": pack_id.hex(), "why": str(error)}
            return
        self._going[pack_id] = moved
        yield ALIVE

    def _told_of_going(self) -> Iterator[Frame]:
        for pack_id, moved in self._going.items():
            self._counts["moved_packs"] += 1
            self._counts["moved_chunks"] += moved
            yield {"t": "aside", "pack": pack_id.hex(), "key": f"{ASIDE}{pack_id.hex()}", "chunks": moved}

    def _move(self, pack_id: bytes, right: Mapping[bytes, ChunkLocation], data: memoryview) -> int:
        """Store chunks of a pack in a new one, and have the catalog find them there."""
        if not right:
            return 0
        sealed, index = repacked(right, data)
        if index.pack_id == pack_id:
            # Nothing but the tail was wrong. The same pack under its own key would have to overwrite the damaged one.
            sealed, index = repacked(right, data, otherwise=next(iter(right)))
        self._store_pack(index, sealed)
        self._move_rows(pack_id, located(index))
        return len(right)

    def _store_pack(self, index: PackIndex, sealed: Buffer) -> None:
        """Raises StoreRefused, and BadRequest where something else has the pack's name."""
        for is_last in (False, True):
            self._blobs.put(pack_key(index.pack_id), sealed)
            try:
                self._record(index.pack_id, index.size)
            except BadRequest:
                # A repair that was killed had put it, and it was condemned: it went between the two lines above.
                if is_last:
                    raise
            else:
                break
        if isinstance(self._blobs, Durable):
            try:
                self._blobs.sync()  # the only copy, once the damaged pack is moved aside
            except StoreLost as lost:
                packs_lost = set(filter(_is_pack, lost.keys))
                if not packs_lost <= set(map(pack_key, self._spread.all_broken())):
                    raise  # else it is what goes aside, or lies there, and all else is on the disk

    def _list(self, pack_id: bytes, size: int) -> None:
        """Have the catalog list a pack that is stored, with its size; one that is gone by now is left alone."""
        if self._ledger.listed([pack_id]).get(pack_id) == size:
            return
        with suppress(BadRequest):
            self._record(pack_id, size)
            self._counts["corrected"] += 1

    def _record(self, pack_id: bytes, size: int) -> None:
        """Raises BadRequest where no blob of that size is there."""

        def write(tx: Transaction) -> None:
            record_packs(tx, self._project_id, [PackIndex(pack_id, size, ())], self._blobs)
            where = packs.c.project_id == self._project_id, packs.c.pack_id == pack_id
            tx.execute(update(packs).where(*where).values(size=size))

        self._write(LIST, write)

    def _strike_gone(self) -> None:
        """Have the catalog list no pack whose blob is gone, unless something is said to lie there again."""

        def strike(tx: Transaction, pack_id: bytes) -> None:
            where = packs.c.project_id == self._project_id, packs.c.pack_id == pack_id
            tx.execute(select(packs.c.size).where(*where).with_for_update())
            if self._is_gone(pack_id):  # else the same content was saved again just now
                lies = exists().where(chunks.c.project_id == self._project_id, chunks.c.pack_id == pack_id)
                tx.execute(delete(packs).where(*where, ~lies))

        for pack_id in self._spread.all_broken():
            self._write(LIST, lambda tx, pack_id=pack_id: strike(tx, pack_id))

    def _write(self, name: str, work: Callable[[Transaction], T]) -> T:
        """Raises LeaseLost."""
        return write_under(self._lease, self._database, name, work)

    # --- what there is ----------------------------------------------------------------------------------------

    def _stored(self) -> Iterator[ObjectInfo]:
        """The packs in the store that are this project's, or nobody's; without those that go soon."""
        for infos in parts(self._blobs.list("packs/")):
            found = {id_of(info.key): info for info in infos if _is_pack(info.key)}
            nobody = set(self._ledger.packs_of_nobody(list(found)))
            ours = self._ledger.listed(list(found))
            yield from (info for pack_id, info in found.items() if pack_id in nobody or pack_id in ours)

    def _index(self, info: ObjectInfo) -> PackIndex:
        """The index of a stored pack. Raises BadPack, KeyError."""
        try:
            return read_index(self._blobs, info.key, info.size)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            raise BadPack(info.key, f"the disk cannot read its index ({error.strerror})") from error


def _is_pack(key: str) -> bool:
    try:
        return len(id_of(key)) == _LENGTH
    except BadPack:
        return False
