"""A pack that the disk did not take is put aside by the server, so that saving goes on; on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack.server.services.catalog import catalog_of, store_of
from dstack.server.services.named_leases import GC, held
from dstack.server.services.syncing import sync_store
from dstack.server.services.verify import Check, Scope
from dstack.snapshots.blobs.local import LocalBlobStore
from dstack.snapshots.capture import save
from dstack.snapshots.errors import StoreLost, StoreRefused
from dstack.snapshots.interfaces import pack_key
from dstack.snapshots.restore import restore
from dstack.snapshots.spread import Spread
from dstack.snapshots.store import SnapshotStore
from tests.support.failing_disk import Disk
from tests.support.shop import chunk_of
from tests.support.trees import described
from tests.support.world import World


class Synced(SnapshotStore):
    """The store as who saves through the API has it."""

    def __init__(self, world: World) -> None:
        super().__init__(world.context.blobs, catalog_of(world.context))
        self._world = world

    def sync(self) -> None:
        sync_store(self._world.context)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    made = Disk(monkeypatch)
    yield made
    made.close()


@pytest.fixture
def lost(world: World, disk: Disk, tmp_path: Path) -> Path:
    """The pack of a live snapshot: the disk did not take it, and has zeros in place of one of two files."""
    root = tmp_path / "out"
    root.mkdir()
    for name in ("lost", "kept"):
        (root / name).write_bytes(name.encode() * 2000)
    save(root, store_of(world.context), live=True)
    [place] = catalog_of(world.context).locate([chunk_of(root / "lost")]).values()
    assert isinstance(world.context.blobs, LocalBlobStore)
    path = world.context.blobs.root / pack_key(place.pack_id)
    disk.fails = [path.name]
    with pytest.raises(StoreRefused):
        save(root, Synced(world))
    data = path.read_bytes()
    path.write_bytes(data[: place.offset] + bytes(place.stored_length) + data[place.offset + place.stored_length :])
    return path


def test_who_saves_again_stores_again_what_was_lost(world: World, disk: Disk, lost: Path, tmp_path: Path) -> None:
    root, store = tmp_path / "out", Synced(world)
    with pytest.raises(StoreRefused, match="it was put aside; save again"):
        save(root, store)
    assert not lost.exists()
    saved = save(root, store)
    assert 0 < saved.stored < 20_000, "without what was kept"
    restore(store, saved.manifest_id, tmp_path / "back")
    assert described(tmp_path / "back") == described(root)
    with Spread() as spread:
        assert [
            frame for frame in Check(world.context, Scope(), spread, quick=False).frames() if frame["t"] == "damage"
        ] == []
    packs = [lost.parents[2] / found.key for found in world.context.blobs.list("packs/")]
    assert packs
    assert all(disk.has(pack) for pack in packs)


def test_it_waits_while_others_are_at_work_on_the_store(world: World, lost: Path, tmp_path: Path) -> None:
    with held(world.context, GC, "collecting"):
        for _ in range(2):
            with pytest.raises(StoreLost, match="`dstack verify --repair`"):
                save(tmp_path / "out", Synced(world))
    assert lost.exists()
