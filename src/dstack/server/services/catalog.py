"""chunk → pack index of one project in the database: `snapshots.Catalog` for the server and its API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from dstack.server.db.engine import Database, Transaction, declare_write
from dstack.server.db.tables import chunks
from dstack.server.db.tables import packs as packs_table
from dstack.snapshots.interfaces import ChunkLocation, PackIndex

_PART = 500

declare_write("store.add")


class DatabaseCatalog:
    """Implements `dstack.snapshots.interfaces.Catalog` for `project_id`."""

    def __init__(self, database: Database, project_id: UUID) -> None:
        self._database = database
        self._project_id = project_id

    def missing(self, chunk_ids: Sequence[bytes]) -> set[bytes]:
        return set(chunk_ids) - set(self._database.read(lambda tx: self._known(tx, chunk_ids)))

    def locate(self, chunk_ids: Sequence[bytes]) -> Mapping[bytes, ChunkLocation]:
        return self._database.read(lambda tx: self._known(tx, chunk_ids))

    def add(self, packs: Sequence[PackIndex]) -> None:
        if packs:
            self._database.write("store.add", lambda tx: self._add(tx, packs))

    def _known(self, tx: Transaction, chunk_ids: Sequence[bytes]) -> dict[bytes, ChunkLocation]:
        found: dict[bytes, ChunkLocation] = {}
        for start in range(0, len(chunk_ids), _PART):
            query = select(
                chunks.c.chunk_id,
                chunks.c.pack_id,
                chunks.c.offset,
                chunks.c.stored_length,
                chunks.c.raw_length,
                chunks.c.codec,
            ).where(chunks.c.project_id == self._project_id, chunks.c.chunk_id.in_(chunk_ids[start : start + _PART]))
            for row in tx.execute(query):
                found[bytes(row[0])] = ChunkLocation(bytes(row[1]), row[2], row[3], row[4], row[5])
        return found

    def _add(self, tx: Transaction, added: Sequence[PackIndex]) -> None:
        # Two writers may store one chunk in two packs: the first row stands, the other copy is garbage for gc.
        make = postgresql.insert if tx.dialect == "postgresql" else sqlite.insert
        now = tx.now
        tx.execute(
            make(packs_table).on_conflict_do_nothing(),
            [
                {"project_id": self._project_id, "pack_id": pack.pack_id, "size": pack.size, "created_at": now}
                for pack in added
            ],
        )
        values = list(self._chunk_rows(added))
        if values:
            tx.execute(make(chunks).on_conflict_do_nothing(), values)

    def _chunk_rows(self, added: Sequence[PackIndex]) -> Iterator[dict[str, object]]:
        for pack in added:
            for chunk in pack.chunks:
                yield {
                    "project_id": self._project_id,
                    "chunk_id": chunk.chunk_id,
                    "pack_id": pack.pack_id,
                    "offset": chunk.offset,
                    "stored_length": chunk.stored_length,
                    "raw_length": chunk.raw_length,
                    "codec": chunk.codec,
                }
