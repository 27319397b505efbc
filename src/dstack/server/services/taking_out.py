"""Taking what is damaged out of the catalog, beside those who save: whatever names it is doubted.

    scan      every object of the store is read: what names the bad, directly or not, is hurt
    drop      the bad goes, and it and all that is hurt are doubted, in one transaction; with it go the blobs of packs
              that were damaged: who is told that something is missing may make the very same pack
    catch up  objects that were recorded since the scan began are read, too, until none of them is hurt

Who was told before the drop that something is there may make objects that name it. Those that were recorded before it
are found by the catching up; later ones are looked at when they are recorded (`services/doubts.py`), and a reference to
one that is doubted is refused (`catalog.hold_saved`). Both ends meet because the transactions here exclude those.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import suppress
from typing import Final, TypeVar
from uuid import UUID

from sqlalchemy import Delete, delete, select, tuple_

from dstack.domain.parts import parts
from dstack.domain.ports import SECOND
from dstack.sdk.blobs import BlobStore
from dstack.server.db.engine import Database, Transaction, declare_write
from dstack.server.db.tables import chunks, doubtful_objects
from dstack.server.services.catalog import catalog_of, take_blobs
from dstack.server.services.context import Context
from dstack.server.services.doubts import doubt, trust
from dstack.server.services.ledger import Frame, Ledger
from dstack.server.services.named_leases import Lease
from dstack.snapshots.checking import possible_objects
from dstack.snapshots.interfaces import pack_key
from dstack.snapshots.spread import Bad, Spread
from dstack.snapshots.store import SnapshotStore
from dstack.snapshots.survey import Survey

T = TypeVar("T")
BEGIN = declare_write("heal.begin")
DROP = declare_write("heal.drop")
DOUBT = declare_write("heal.doubt")
BACK: Final = 60 * SECOND
"""How far a clock may be set back while this goes on: what was recorded that long before the scan is read again."""
ALIVE: Final[Frame] = {"t": "done", "bytes": 0}


class TakingOut:
    """Does it once, for what `spread` says is bad, and all that lies in the packs that are `going`; `lease` as in
    `heal.Healer`."""

    def __init__(
        self, context: Context, spread: Spread, lease: Lease | None, going: Collection[bytes] = frozenset()
    ) -> None:
        self.dropped = 0
        """Rows of chunks."""
        self.doubtful = 0
        """Objects that are doubted because of it."""
        self._context = context
        self._spread = spread
        self._lease = lease
        self._going = frozenset(going)
        self._ledger = Ledger(context)
        self._catalog = catalog_of(context)
        self._survey = Survey(SnapshotStore(context.blobs, self._catalog), self._catalog, spread)

    def steps(self) -> Iterator[Frame]:
        since = write_under(self._lease, self._context.database, BEGIN, _begin)
        self._mark_going()
        for pack_id in listed(self._ledger):
            self._spread.add_objects(self._objects_of(pack_id))
            yield ALIVE
        for _ in self._survey.link(missing=True):
            yield ALIVE
        yield from self._read_fresh(since)  # so that little is left for after the drop
        while self._mark_going():  # recorded again meanwhile: what was read did not know that it is bad
            for _ in self._survey.link(missing=True):
                yield ALIVE
        for part in parts(self._spread.all_bad()):
            now = self._catalog.locate([bad.id for bad in part])
            # Saved again since it was looked at: it is there, and so may be what names it.
            self._spread.forget_bad(
                bad.id
                for bad in part
                if bad.id in now and now[bad.id].pack_id != bad.pack_id and now[bad.id].pack_id not in self._going
            )
        self._spread.spread()
        lay = self._drop()
        for chunk_id in lay:  # recorded again at the last moment, some of them
            self._spread.mark_bad(Bad(chunk_id, None, "its pack was set aside"))
        yield ALIVE
        yield from self._catch_up(since)

    def _mark_going(self) -> bool:
        """Have all be bad that is said to lie in packs that go; False where that was known."""
        is_new = False
        for pack_id in self._going:
            for chunk_id in self._ledger.rows_of(pack_id):
                is_new |= self._spread.mark_bad(Bad(chunk_id, pack_id, "its pack is set aside"))
        return is_new

    def _objects_of(self, pack_id: bytes) -> list[bytes]:
        with suppress(KeyError):  # gone: its chunks are bad, or it was freed meanwhile
            return list(possible_objects(self._context.blobs, self._ledger.rows_of(pack_id)))
        return []

    def _drop(self) -> set[bytes]:
        """What lay in the packs that went."""

        def drop(tx: Transaction) -> tuple[int, int, set[bytes]]:
            dropped, doubtful = self._drop_bad(tx)
            lay = remove_packs(tx, self._context.project_id, self._context.blobs, self._going)
            return dropped + len(lay), doubtful, lay

        self.dropped, self.doubtful, lay = write_under(self._lease, self._context.database, DROP, drop)
        return lay

    def _drop_bad(self, tx: Transaction) -> tuple[int, int]:
        """How far damage spreads was worked out before: others wait for this transaction. So what is saved again at
        this moment stays, for it does not lie where the damage was, and who names it is doubted without need."""
        take_blobs(tx)
        project_id = self._context.project_id
        dropped = 0
        for part in parts(self._spread.all_bad()):
            lying = [(bad.id, bad.pack_id) for bad in part if bad.pack_id is not None]
            if lying:
                gone = tx.execute(delete_lying(project_id, lying).returning(chunks.c.chunk_id)).scalars().all()
                doubt(tx, project_id, map(bytes, gone))
                dropped += len(gone)
        # What was doubted before, was looked at, and need not be any more.
        query = select(doubtful_objects.c.object_id).where(doubtful_objects.c.project_id == project_id)
        for part in parts(map(bytes, tx.execute(query).scalars().all())):
            trust(tx, project_id, self._spread.are_read(part) - self._spread.hurt_among(part))
        doubtful = 0
        for part in parts(self._spread.hurt_objects()):
            doubt(tx, project_id, part)
            doubtful += len(part)
        return dropped, doubtful

    def _catch_up(self, since: int) -> Iterator[Frame]:
        while fresh := (yield from self._read_fresh(since)):
            self._spread.spread()
            hurt = self._spread.hurt_among(fresh)
            if not hurt:
                return
            write_under(self._lease, self._context.database, DOUBT, lambda tx, hurt=hurt: self._doubt(tx, sorted(hurt)))
            self.doubtful += len(hurt)
            yield ALIVE

    def _read_fresh(self, since: int) -> Generator[Frame, None, list[bytes]]:
        """Read the objects that were recorded since then and not read yet; which."""
        fresh: list[bytes] = []
        for pack_id in self._ledger.recorded_since(since):
            for part in parts(self._objects_of(pack_id)):
                known = self._spread.are_read(part)
                fresh += [object_id for object_id in part if object_id not in known]
            yield ALIVE
        self._spread.add_objects(fresh)
        if fresh:
            for _ in self._survey.link(missing=True, again=False):
                yield ALIVE
        return fresh

    def _doubt(self, tx: Transaction, object_ids: Sequence[bytes]) -> None:
        take_blobs(tx)
        doubt(tx, self._context.project_id, object_ids)


def remove_packs(tx: Transaction, project_id: UUID, blobs: BlobStore, pack_ids: Collection[bytes]) -> set[bytes]:
    """Delete the blobs of packs, and take out and doubt what is said to lie in them, which is returned.

    To be called last in a transaction: where that cannot be committed, the catalog still names what has gone. Whoever
    records such a pack does so before, and it goes, or later, and has to have put it again.
    """
    take_blobs(tx)
    lay = set[bytes]()
    for pack_id in sorted(pack_ids):
        query = select(chunks.c.chunk_id).where(chunks.c.project_id == project_id, chunks.c.pack_id == pack_id)
        for part in parts(map(bytes, tx.execute(query).scalars().all())):
            tx.execute(delete_lying(project_id, [(chunk_id, pack_id) for chunk_id in part]))
            doubt(tx, project_id, part)
            lay.update(part)
    blobs.delete([pack_key(pack_id) for pack_id in sorted(pack_ids)])
    return lay


def delete_lying(project_id: UUID, lying: Sequence[tuple[bytes, bytes]]) -> Delete:
    """Take chunks out that lie in the packs given with them."""
    return delete(chunks).where(
        chunks.c.project_id == project_id,
        # SQLite uses no index for pairs: by these alone it would look through all chunks of the project.
        chunks.c.chunk_id.in_([chunk_id for chunk_id, _ in lying]),
        tuple_(chunks.c.chunk_id, chunks.c.pack_id).in_(lying),
    )


def listed(ledger: Ledger) -> Iterator[bytes]:
    """Every pack that the catalog names."""
    yield from (pack_id for pack_id, _ in ledger.packs())
    yield from ledger.unlisted()


def write_under(lease: Lease | None, database: Database, name: str, work: Callable[[Transaction], T]) -> T:
    """A write that proves `lease`, where there is one. Raises LeaseLost."""

    def proved(tx: Transaction) -> T:
        if lease is not None:
            lease.write(tx)
        return work(tx)

    return database.write(name, proved)


def _begin(tx: Transaction) -> int:
    take_blobs(tx)  # what is recorded before is there to be read, what is recorded later has a later time
    return tx.now - BACK
