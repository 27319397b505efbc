"""Whether what runs have saved is all there and right: every byte is read and hashed, or only looked for.

Damage is told as it is found; at the end, which runs it touches. What a check says is true of the moment it looked:
data that is freed or moved meanwhile is no damage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final

from dstack.domain.parts import parts
from dstack.server.db.engine import Transaction
from dstack.server.services.artifacts import tagged
from dstack.server.services.catalog import catalog_of
from dstack.server.services.context import Context
from dstack.server.services.ledger import Frame, Ledger, Reference, Scope, damage_frame
from dstack.server.services.named import run_id_of
from dstack.server.services.repositories import RepositoryRef, named_repository
from dstack.snapshots.checking import Damage, PackCheck, check_pack, glance_at_pack, read_through
from dstack.snapshots.errors import BadPack, DamagedStore
from dstack.snapshots.interfaces import ChunkLocation, pack_key
from dstack.snapshots.manifests import ROOT
from dstack.snapshots.packs import id_of
from dstack.snapshots.scanning import shown
from dstack.snapshots.spread import Bad, Spread
from dstack.snapshots.store import SnapshotStore
from dstack.snapshots.survey import Survey, hurt_paths, told_of

MOST_PATHS: Final = 1000
"""Files that are named of one snapshot; of further ones the number is told."""


def scope_of(tx: Transaction, context: Context, run: str | None, tag: str | None, ref: RepositoryRef | None) -> Scope:
    """What a run or a tag stands for, everything where neither is given. Raises NotFound."""
    if run is not None:
        return Scope(((run_id_of(tx, context.project_id, run), None),))
    if tag is None:
        return Scope()
    found = tagged(tx, context.project_id, tag, named_repository(tx, context.project_id, ref))
    return Scope(tuple(sorted(found)))


class Check:
    """One check. `frames` does it; `spread` then knows what is wrong, for `services.heal`."""

    def __init__(self, context: Context, scope: Scope, spread: Spread, *, quick: bool) -> None:
        self.damages = 0
        self._blobs = context.blobs
        self._scope = scope
        self._spread = spread
        self._quick = quick
        self._ledger = Ledger(context)
        self._catalog = catalog_of(context)
        self._store = SnapshotStore(context.blobs, self._catalog)
        self._survey = Survey(self._store, self._catalog, spread, note_chunks=not scope.is_everything)
        self._objects = self._packs = self._bytes = 0
        self._told = set[Reference]()

    def frames(self) -> Iterator[Frame]:
        """See docs/design/interfaces.md; `damage`, `touched`, `unreferenced`, and what shows how far it is."""
        if self._scope.is_everything:
            yield from self._all_packs()
        for part in parts(reference.manifest_id for reference in self._ledger.references(self._scope)):
            self._spread.add_objects(part, ROOT)
        for found in self._survey.follow():
            # What is nowhere may be of a run that was deleted meanwhile: it is told of with the runs it touches.
            if found is None or (found.kind == "chunk" and found.pack_id is None):
                yield {"t": "done", "bytes": 0}
            else:
                if found.pack_id is not None:
                    self._spread.mark_broken(found.pack_id)
                yield from self._tell(found)
        if not self._scope.is_everything:
            yield from self._chosen_chunks()
        for found in self._survey.odd():
            yield from self._tell(found)
        if self._spread.any_bad:
            for _ in self._survey.link():
                yield {"t": "done", "bytes": 0}
            self._spread.spread()
            yield from self.touched()
            if self._told:
                yield from self._nowhere()

    def summary(self) -> Frame:
        return {"damages": self.damages, "packs": self._packs, "bytes": self._bytes, "quick": self._quick}

    # --- everything: pack by pack ---------------------------------------------------------------------------------

    def _all_packs(self) -> Iterator[Frame]:
        yield {"t": "total", "bytes": self._ledger.size()}
        for pack_id, size in self._ledger.packs():
            yield from self._pack(pack_id, size)
            yield {"t": "done", "bytes": size}
        for pack_id in self._ledger.unlisted():
            yield from self._tell(Damage("row", pack_id, pack_id, "chunks lie in this pack, and the list lacks it"))
            yield from self._pack(pack_id, None)
        for infos in parts(self._blobs.list("packs/")):
            sizes: dict[bytes, int] = {}
            for info in infos:
                try:
                    sizes[id_of(info.key)] = info.size
                except BadPack as error:
                    yield {"t": "unreferenced", "key": info.key, "size": info.size, "why": error.detail}
            for pack_id in self._ledger.packs_of_nobody(list(sizes)):
                key = pack_key(pack_id)
                yield {"t": "unreferenced", "key": key, "size": sizes[pack_id], "why": "no row of the catalog names it"}

    def _pack(self, pack_id: bytes, size: int | None) -> Iterator[Frame]:
        """Check one pack against the catalog, which says that it has `size` bytes."""
        self._packs += 1
        try:
            found = self._look(pack_id)
        except KeyError:
            if self._ledger.listed([pack_id]) or self._ledger.rows_of(pack_id):  # else it was freed meanwhile
                yield from self._gone(pack_id)
            return
        # Rows that are younger than the pack's bytes: what was moved out of it meanwhile is not sought in it.
        yield from self._compare(pack_id, found, self._ledger.rows_of(pack_id))
        if not found.whole and size not in (None, found.size):
            self._spread.mark_broken(pack_id)
            what = f"it has {found.size} bytes, the catalog says {size}"
            yield from self._tell(Damage("row", pack_id, pack_id, what))

    def _look(self, pack_id: bytes) -> PackCheck:
        rows = self._ledger.rows_of(pack_id)
        if self._quick:
            return glance_at_pack(self._blobs, pack_id, rows)
        data = read_through(self._blobs, pack_key(pack_id))
        self._bytes += len(data)
        return check_pack(pack_id, data, rows)

    def _gone(self, pack_id: bytes) -> Iterator[Frame]:
        self._spread.mark_broken(pack_id)
        yield from self._tell(Damage("pack", pack_id, pack_id, "it is gone from the store"))
        for chunk_id in self._ledger.rows_of(pack_id):
            yield from self._bad(Damage("chunk", chunk_id, pack_id, "its pack is gone from the store"))

    def _compare(self, pack_id: bytes, found: PackCheck, rows: Mapping[bytes, ChunkLocation]) -> Iterator[Frame]:
        hurt = 0
        for chunk_id, what in found.wrong.items():
            hurt += 1
            if chunk_id in rows:
                yield from self._bad(Damage("chunk", chunk_id, pack_id, what))
        for chunk_id, place in rows.items():
            right = found.right.get(chunk_id)
            if right is not None and right != place:
                what = f"the catalog says it lies at {_place(place)}, the pack has it at {_place(right)}"
                yield from self._bad(Damage("row", chunk_id, pack_id, what))
        if found.whole:
            self._spread.mark_broken(pack_id)
            share = f"; {hurt} of its {hurt + len(found.right)} chunks are damaged" if hurt else ""
            yield from self._tell(Damage("pack", pack_id, pack_id, found.whole + share))

    # --- some runs: chunk by chunk ------------------------------------------------------------------------------

    def _chosen_chunks(self) -> Iterator[Frame]:
        if self._quick:
            for pack_id in self._spread.packs():
                yield from self._pack(pack_id, None)
                yield {"t": "done", "bytes": 0}
            return
        yield {"t": "total", "bytes": self._spread.chunk_bytes()}
        for located in self._spread.chunks():
            self._packs += 1
            for part in parts(located):
                size = sum(place.stored_length for _, place in part)
                failed = [found for found in self._store.try_located(part) if isinstance(found[1], DamagedStore)]
                # Where it lay when it was asked for: it may have moved, which reading by its id finds out.
                for chunk_id, data in self._store.try_chunks(chunk_id for chunk_id, _ in failed):
                    if isinstance(data, DamagedStore):
                        found = told_of(chunk_id, data)
                        if found.pack_id is not None:
                            self._spread.mark_broken(found.pack_id)
                        yield from self._bad(found)
                self._bytes += size
                yield {"t": "done", "bytes": size}

    # --- what is told -----------------------------------------------------------------------------------------

    def _bad(self, damage: Damage) -> Iterator[Frame]:
        """Tell of a chunk that cannot be read, once."""
        if self._spread.mark_bad(Bad(damage.id, damage.pack_id, damage.what)):
            yield from self._tell(damage)

    def _tell(self, damage: Damage) -> Iterator[Frame]:
        self.damages += 1
        yield damage_frame(damage)

    def _nowhere(self) -> Iterator[Frame]:
        for part in parts(bad for bad in self._spread.all_bad() if bad.pack_id is None):
            located = self._catalog.locate([bad.id for bad in part])
            for bad in part:
                if bad.id not in located:
                    yield from self._tell(Damage("chunk", bad.id, None, bad.what))

    def touched(self) -> Iterator[Frame]:
        """Whose files are hurt, by what `spread` knows now; nothing that was told before."""
        for part in parts(self._ledger.references(self._scope)):
            hurt = self._spread.hurt_among([reference.manifest_id for reference in part])
            for reference in part:
                if reference.manifest_id in hurt and reference not in self._told:
                    self._told.add(reference)
                    yield self._touch(reference)

    def _touch(self, reference: Reference) -> Frame:
        paths = (shown(path) for path in hurt_paths(self._store, self._spread, reference.manifest_id))
        return {
            "t": "touched",
            "kind": "artifact" if reference.job else "code",
            "run": reference.run,
            "job": reference.job or None,
            "path": reference.path or None,
            "snapshot": reference.manifest_id.hex(),
            "at": reference.at,
            "live": reference.live,
            "files": list(islice(paths, MOST_PATHS)),
            "more": sum(1 for _ in paths),
        }


def _place(place: ChunkLocation) -> str:
    told = f"{place.offset}, {place.stored_length} bytes"
    return f"{told}, codec {place.codec} of {place.raw_length} bytes" if place.codec else told
