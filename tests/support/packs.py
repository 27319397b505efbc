"""Packs of a store as tests look at them: each proven whole, and a catalog made of them alone."""

from __future__ import annotations

from dstack.sdk.blobs import BlobStore, Buffer
from dstack.snapshots.checking import check_pack
from dstack.snapshots.chunking import digest
from dstack.snapshots.errors import BadPack
from dstack.snapshots.interfaces import Catalog, PackIndex, pack_key
from dstack.snapshots.packs import PackBuilder, id_of, parse_index, read_index
from dstack.snapshots.store import SnapshotStore


def put_pack(store: SnapshotStore, *chunks: bytes) -> str:
    """One pack with these chunks, known to the catalog; its key."""
    builder = PackBuilder()
    for chunk in chunks:
        builder.add(digest(chunk), chunk)
    data, index = builder.seal()
    store.put(pack_key(index.pack_id), data)
    store.add([index])
    return pack_key(index.pack_id)


def verify_pack(key: str, data: Buffer) -> PackIndex:
    """Check a whole pack: name, frame and every chunk. Raises BadPack."""
    found = check_pack(id_of(key), data, {})
    for detail in (found.whole, *found.wrong.values()):
        if detail:
            raise BadPack(key, detail)
    return PackIndex(id_of(key), len(data), parse_index(key, data, len(data)))


def rebuild(blobs: BlobStore, catalog: Catalog) -> int:
    """Record every stored pack in `catalog`; the number of packs. Raises BadPack."""
    packs = [read_index(blobs, info.key, info.size) for info in blobs.list("packs/")]
    for pack in packs:
        catalog.add([pack])
    return len(packs)
