"""chunk → pack index of one project in the database: `snapshots.Catalog` for the server and its API.

Whoever saves is told which chunks are there and relies on it until what it made is recorded. So packs note when they
were asked about: collecting garbage (`services/gc.py`) leaves alone what was asked about within its grace.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import bindparam, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from dstack.domain.parts import parts
from dstack.domain.ports import SECOND
from dstack.sdk.blobs import BlobStore
from dstack.server.db.engine import Database, Transaction, declare_write
from dstack.server.db.prepared import Prepared
from dstack.server.db.tables import chunks
from dstack.server.db.tables import packs as packs_table
from dstack.server.db.types import Id
from dstack.server.services.context import Context
from dstack.server.services.doubts import Named, any_doubt, doubtful, named_in, settle
from dstack.server.services.errors import BadRequest
from dstack.snapshots.interfaces import ChunkLocation, PackIndex, pack_key
from dstack.snapshots.store import SnapshotStore

ASKED_TO = 600 * SECOND
"""How exactly `packs.asked_at` is known, in microseconds: one that is younger is not written again."""
ADD = declare_write("store.add")
ASKED = declare_write("store.asked")


class DatabaseCatalog:
    """Implements `dstack.snapshots.interfaces.Catalog` for `project_id`.

    With `blobs`, `add` takes only packs whose bytes are there. `asked_to` is in microseconds.
    """

    def __init__(
        self, database: Database, project_id: UUID, *, blobs: BlobStore | None = None, asked_to: int = ASKED_TO
    ) -> None:
        self._database = database
        self._project_id = project_id
        self._blobs = blobs
        self._asked_to = asked_to

    def missing(self, chunk_ids: Sequence[bytes]) -> set[bytes]:
        """Those that no pack holds, or that name what is damaged. The packs of the others count as asked about."""
        found = self._database.read(
            lambda tx: _look(tx, self._project_id, chunk_ids, self._asked_to).with_missing(
                doubtful(tx, self._project_id, chunk_ids)
            )
        )
        if not found.stale:
            return found.missing
        asked = list(found.stale)
        return found.missing | self._database.write(
            ASKED, lambda tx: hold(tx, self._project_id, asked, asked_to=self._asked_to)
        )

    def locate(self, chunk_ids: Sequence[bytes]) -> Mapping[bytes, ChunkLocation]:
        return self._database.read(lambda tx: self._known(tx, chunk_ids))

    def add(self, packs: Sequence[PackIndex]) -> None:
        """Raises BadRequest for a pack that is not stored whole, where that can be seen."""
        if packs and not self._database.write(ADD, lambda tx: self._add(tx, packs, None)):
            named = named_in(self._blobs, packs) if self._blobs is not None else {}
            self._database.write(ADD, lambda tx: self._add(tx, packs, named))

    def _known(self, tx: Transaction, chunk_ids: Sequence[bytes]) -> dict[bytes, ChunkLocation]:
        found: dict[bytes, ChunkLocation] = {}
        for part in parts(chunk_ids):
            for row in tx.rows(_LOCATE, {"project": self._project_id, "ids": part}):
                found[bytes(row[0])] = ChunkLocation(bytes(row[1]), row[2], row[3], row[4], row[5])
        return found

    def _add(self, tx: Transaction, added: Sequence[PackIndex], named: Mapping[bytes, Named] | None) -> bool:
        """False, without their chunks, where it must be known what objects in the packs name (`doubts.named_in`)."""
        record_packs(tx, self._project_id, added, self._blobs)
        is_doubted = any_doubt(tx, self._project_id)
        if is_doubted and named is None:
            return False
        # Two writers may store one chunk in two packs: the first row stands, the other copy is garbage for gc.
        values = [row for pack in added for row in chunk_rows(self._project_id, pack)]
        if values:
            make = postgresql.insert if tx.dialect == "postgresql" else sqlite.insert
            tx.execute(make(chunks).on_conflict_do_nothing(), values)
        if is_doubted:
            settle(tx, self._project_id, {chunk.chunk_id for pack in added for chunk in pack.chunks}, named or {})
        return True


def catalog_of(context: Context) -> DatabaseCatalog:
    """The catalog of this server's project."""
    asked_to = int(context.settings.gc_asked_to * SECOND)
    return DatabaseCatalog(context.database, context.project_id, blobs=context.blobs, asked_to=asked_to)


def store_of(context: Context) -> SnapshotStore:
    """The snapshots of this server's project."""
    return SnapshotStore(context.blobs, catalog_of(context))


def hold(tx: Transaction, project_id: UUID, chunk_ids: Iterable[bytes], *, asked_to: int = ASKED_TO) -> set[bytes]:
    """Those of `chunk_ids` that no pack holds; of the others the packs count as asked about, from this write on.

    Whatever names a chunk in the database from now on calls this in the transaction that writes the name: what is held
    is not collected before collecting garbage can see the name.
    """
    found = _look(tx, project_id, list(chunk_ids), asked_to)
    if not found.stale:
        return found.missing
    of = (packs_table.c.project_id == project_id, packs_table.c.pack_id)
    for part in parts(sorted(set(found.stale.values()))):
        # In order, so that two who hold the same packs do not wait for each other; gc locks them the same way.
        tx.execute(select(of[1]).where(of[0], of[1].in_(part)).order_by(of[1]).with_for_update())
        tx.execute(update(packs_table).where(of[0], of[1].in_(part)).values(asked_at=tx.now))
    # gc may have had them locked, and have taken out what it found unreferenced.
    return found.missing | _look(tx, project_id, list(found.stale), asked_to).missing


def hold_for(tx: Transaction, context: Context, chunk_ids: Iterable[bytes]) -> set[bytes]:
    """`hold`, for this server's project."""
    asked_to = int(context.settings.gc_asked_to * SECOND)
    return hold(tx, context.project_id, chunk_ids, asked_to=asked_to)


def hold_saved(tx: Transaction, context: Context, chunk_ids: Sequence[bytes]) -> set[bytes]:
    """`hold_for` what was saved just now and nobody refers to yet: what is doubted is missing, too.

    Who is told so saves again, and all of it is there then.
    """
    keep_blobs(tx)  # either before a repair takes something out, or told of it
    return hold_for(tx, context, chunk_ids) | doubtful(tx, context.project_id, chunk_ids)


def lacking(tx: Transaction, context: Context, chunk_ids: Iterable[bytes]) -> set[bytes]:
    """What `hold_for` would say no pack holds; nothing is held."""
    return _look(tx, context.project_id, list(chunk_ids), 0).missing


def record_packs(tx: Transaction, project_id: UUID, packs: Sequence[PackIndex], blobs: BlobStore | None = None) -> None:
    """Make the rows of packs, which count as recorded and asked about now; one that was about to go stays.

    With `blobs`, raises BadRequest for a pack that is not stored there whole.
    """
    keep_blobs(tx)
    make = postgresql.insert if tx.dialect == "postgresql" else sqlite.insert
    row = {"project_id": project_id, "created_at": tx.now, "asked_at": tx.now}
    # An update, not "do nothing": it waits for whoever is deleting the pack at this moment.
    tx.execute(
        make(packs_table).on_conflict_do_update(
            index_elements=["project_id", "pack_id"],
            set_={"created_at": tx.now, "asked_at": tx.now, "condemned_at": None},
        ),
        [{**row, "pack_id": pack.pack_id, "size": pack.size} for pack in sorted(packs, key=lambda pack: pack.pack_id)],
    )
    # Only now, when nobody can take them away any more: where a blob is being deleted, the statement above waited.
    if blobs is not None:
        for pack in packs:
            found = blobs.stat(pack_key(pack.pack_id))
            if found is None or found.size != pack.size:
                raise BadRequest(f"pack {pack.pack_id.hex()} is not in the store whole", hint="upload it again")


def keep_blobs(tx: Transaction) -> None:
    """Have no blob of a pack deleted, and nothing that is damaged taken out, until the transaction ends.

    Who saves the same in two projects makes the same pack, and it may be one blob of one store: the rows of one project
    do not show what the other is about to record.
    """
    if tx.dialect == "postgresql":
        tx.execute(_KEEP_BLOBS, {"key": _BLOBS})


def take_blobs(tx: Transaction) -> None:
    """Have no project record a pack until the transaction ends, which deletes blobs or takes out what is damaged. Call
    it before rows are locked."""
    if tx.dialect == "postgresql":  # with SQLite only one writes at a time
        tx.execute(_TAKE_BLOBS, {"key": _BLOBS})


def chunk_rows(project_id: UUID, pack: PackIndex) -> list[dict[str, object]]:
    """The rows of a pack's chunks."""
    return [
        {
            "project_id": project_id,
            "chunk_id": chunk.chunk_id,
            "pack_id": pack.pack_id,
            "offset": chunk.offset,
            "stored_length": chunk.stored_length,
            "raw_length": chunk.raw_length,
            "codec": chunk.codec,
        }
        for chunk in pack.chunks
    ]


class Move(NamedTuple):
    """A chunk that lies in the pack `before` is to be found at `place` from now on."""

    chunk_id: bytes
    before: bytes
    place: ChunkLocation


def move_chunks(tx: Transaction, project_id: UUID, moves: Iterable[Move]) -> None:
    """Change where chunks are said to lie; one that is said to lie elsewhere by now stays as it is."""
    rows = [
        {
            "project": project_id, "chunk": move.chunk_id, "before": move.before, "pack_id": move.place.pack_id,
            "offset": move.place.offset, "stored_length": move.place.stored_length,
            "raw_length": move.place.raw_length, "codec": move.place.codec,
        }
        for move in moves
    ]  # fmt: skip
    if rows:
        tx.execute(_MOVE, rows)


class _Looked:
    """What the catalog has of some chunks."""

    def __init__(self, missing: set[bytes], stale: dict[bytes, bytes]) -> None:
        self.missing = missing
        self.stale = stale
        """Chunk → pack, for packs that were not asked about lately."""

    def with_missing(self, chunk_ids: set[bytes]) -> _Looked:
        return _Looked(self.missing | chunk_ids, self.stale)


def _look(tx: Transaction, project_id: UUID, chunk_ids: Sequence[bytes], asked_to: int) -> _Looked:
    lately = tx.now - asked_to
    missing = set(chunk_ids)
    stale: dict[bytes, bytes] = {}
    asked: dict[bytes, int] = {}
    for part in parts(chunk_ids):
        found = tx.rows(_PACKS_OF, {"project": project_id, "ids": part})
        new = sorted({bytes(row[1]) for row in found} - asked.keys())
        for some in parts(new):
            asked.update((bytes(row[0]), row[1]) for row in tx.rows(_ASKED_AT, {"project": project_id, "ids": some}))
        for chunk_id, pack_id in found:
            missing.discard(bytes(chunk_id))
            if asked.get(bytes(pack_id), 0) <= lately:
                stale[bytes(chunk_id)] = bytes(pack_id)
    return _Looked(missing, stale)


def _by_ids(columns: Sequence[Any], key: Any) -> Prepared:
    table = key.table
    return Prepared(
        select(*columns).where(
            table.c.project_id == bindparam("project", type_=Id), key.in_(bindparam("ids", expanding=True))
        )
    )


_BLOBS = 0x6473_7061_636B  # "dspack"; PostgreSQL's advisory locks are numbers
_KEEP_BLOBS = text("SELECT pg_advisory_xact_lock_shared(:key)")
_TAKE_BLOBS = text("SELECT pg_advisory_xact_lock(:key)")
_LOCATE = _by_ids(
    [chunks.c.chunk_id, chunks.c.pack_id, chunks.c.offset, chunks.c.stored_length, chunks.c.raw_length, chunks.c.codec],
    chunks.c.chunk_id,
)
_PACKS_OF = _by_ids([chunks.c.chunk_id, chunks.c.pack_id], chunks.c.chunk_id)
_ASKED_AT = _by_ids([packs_table.c.pack_id, packs_table.c.asked_at], packs_table.c.pack_id)
_MOVE = (
    update(chunks)
    .where(
        chunks.c.project_id == bindparam("project", type_=Id),
        chunks.c.chunk_id == bindparam("chunk"),
        chunks.c.pack_id == bindparam("before"),
    )
    .values(
        pack_id=bindparam("pack_id"),
        offset=bindparam("offset"),
        stored_length=bindparam("stored_length"),
        raw_length=bindparam("raw_length"),
        codec=bindparam("codec"),
    )
)
