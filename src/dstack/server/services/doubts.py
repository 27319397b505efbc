"""What is answered as missing to whoever saves, though the catalog has it or had it.

    object     it names what was damaged and taken out: who saves it is to write again all that it names
    chunk      a repair took it out; whoever was told before that it is there may still make objects that name it

So as long as anything is doubted, the objects of a pack are looked at before they are recorded: one that names what is
doubted is doubted itself. Who takes something out and doubts what names it does so while nobody records packs
(`catalog.take_blobs`): an object is recorded either early enough to be found, or late enough to find out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import bindparam, delete, exists, select
from sqlalchemy.dialects import postgresql, sqlite

from dstack.domain.parts import parts
from dstack.sdk.blobs import BlobStore
from dstack.server.db.engine import Transaction
from dstack.server.db.prepared import Prepared
from dstack.server.db.tables import chunks, doubtful_objects
from dstack.server.db.types import Id
from dstack.snapshots.catalog import MemoryCatalog
from dstack.snapshots.checking import located, names_in, possible_objects
from dstack.snapshots.errors import BadManifest, DamagedStore
from dstack.snapshots.interfaces import PackIndex
from dstack.snapshots.store import SnapshotStore

_KEY: Final = ["project_id", "object_id"]


class Named(NamedTuple):
    """What an object names: other objects, which must not be doubted, and pieces of files, which must be there."""

    objects: frozenset[bytes]
    pieces: frozenset[bytes]


def named_in(blobs: BlobStore, packs: Iterable[PackIndex]) -> dict[bytes, Named]:
    """What the objects in stored packs name, in their order; without those that cannot be read."""
    found: dict[bytes, Named] = {}
    store = SnapshotStore(blobs, MemoryCatalog())
    for pack in packs:
        places = located(pack)
        # Pieces of files stand before objects (docs/formats/snapshots.md, section 2): most packs have no object.
        last = sorted(places.items(), key=lambda item: item[1].offset)[-1:]
        try:
            objects = list(possible_objects(blobs, places)) if any(possible_objects(blobs, dict(last))) else []
        except KeyError:
            continue  # it is not stored: whoever records it finds out
        for object_id, data in store.try_located((item, places[item]) for item in objects):
            if isinstance(data, DamagedStore):
                continue
            try:
                names = names_in(object_id, data)
            except BadManifest:
                continue  # a piece of a file that begins like an object
            pieces = frozenset(chunk.chunk_id for chunk in names.chunks())
            found[object_id] = Named(frozenset((*names.objects, *names.pages)), pieces)
    return found


def any_doubt(tx: Transaction, project_id: UUID) -> bool:
    return bool(tx.rows(_ANY, {"project": project_id}))


def doubtful(tx: Transaction, project_id: UUID, ids: Sequence[bytes]) -> set[bytes]:
    """Those that are doubted."""
    if not any_doubt(tx, project_id):
        return set()
    return _among(tx, _DOUBTFUL, project_id, ids)


def doubt(tx: Transaction, project_id: UUID, ids: Iterable[bytes]) -> None:
    """Doubt these from now on."""
    rows = [{"project_id": project_id, "object_id": item, "doubted_at": tx.now} for item in ids]
    if rows:
        make = postgresql.insert if tx.dialect == "postgresql" else sqlite.insert
        again = {"doubted_at": tx.now}
        tx.execute(make(doubtful_objects).on_conflict_do_update(index_elements=_KEY, set_=again), rows)


def trust(tx: Transaction, project_id: UUID, ids: Iterable[bytes]) -> None:
    """Doubt these no more."""
    of = (doubtful_objects.c.project_id == project_id, doubtful_objects.c.object_id)
    for part in parts(sorted(ids)):
        tx.execute(delete(doubtful_objects).where(of[0], of[1].in_(part)))


def settle(tx: Transaction, project_id: UUID, recorded: Collection[bytes], named: Mapping[bytes, Named]) -> None:
    """Trust the chunks that were recorded just now, but for the objects among them that name what is doubted.

    `named` are those objects, what they name first.
    """
    own = set(recorded)
    names = {name for each in named.values() for name in (*each.objects, *each.pieces)} - own
    doubted = doubtful(tx, project_id, sorted(names))
    gone = doubted - _among(tx, _THERE, project_id, sorted(doubted))
    unsound: set[bytes] = set()
    size = -1
    while size < len(unsound):
        size = len(unsound)
        for object_id, each in named.items():
            if not gone.isdisjoint(each.pieces) or not each.objects.isdisjoint(doubted | unsound):
                unsound.add(object_id)
    trust(tx, project_id, doubtful(tx, project_id, sorted(own - unsound)))
    doubt(tx, project_id, sorted(unsound))


def forget_taken_out(tx: Transaction, project_id: UUID, before: int) -> None:
    """Doubt no more what is not in the catalog and was taken out before that time: nobody can rely on it any more."""
    tx.execute(delete(doubtful_objects).where(*_taken_out(project_id, before)))


def any_taken_out(tx: Transaction, project_id: UUID, before: int) -> bool:
    """Whether `forget_taken_out` would find something."""
    query = select(doubtful_objects.c.object_id).where(*_taken_out(project_id, before)).limit(1)
    return tx.execute(query).first() is not None


def _taken_out(project_id: UUID, before: int) -> tuple[Any, Any, Any]:
    there = exists().where(chunks.c.project_id == project_id, chunks.c.chunk_id == doubtful_objects.c.object_id)
    return doubtful_objects.c.project_id == project_id, doubtful_objects.c.doubted_at < before, ~there


def _among(tx: Transaction, query: Prepared, project_id: UUID, ids: Sequence[bytes]) -> set[bytes]:
    found = (tx.rows(query, {"project": project_id, "ids": part}) for part in parts(ids))
    return {bytes(row[0]) for rows in found for row in rows}


def _which(key: Any) -> Prepared:
    table = key.table
    return Prepared(
        select(key).where(
            table.c.project_id == bindparam("project", type_=Id), key.in_(bindparam("ids", expanding=True))
        )
    )


_DOUBTFUL = _which(doubtful_objects.c.object_id)
_THERE = _which(chunks.c.chunk_id)
_ANY = Prepared(
    select(doubtful_objects.c.object_id).where(doubtful_objects.c.project_id == bindparam("project", type_=Id)).limit(1)
)
