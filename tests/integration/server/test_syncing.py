"""A pack that the disk did not take is put aside by the server, so that saving goes on; on both databases."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dstack.sdk.blobs import Buffer
from dstack.server.services.catalog import catalog_of, store_of
from dstack.server.services.context import Context
from dstack.server.services.ledger import Frame
from dstack.server.services.named_leases import GC, UPKEEP, held
from dstack.server.services.syncing import sync_store
from dstack.server.services.taking_out import TakingOut
from dstack.server.services.verify import Check, Scope
from dstack.snapshots.blobs.local import LocalBlobStore
from dstack.snapshots.capture import save
from dstack.snapshots.errors import StoreLost, StoreRefused
from dstack.snapshots.interfaces import pack_key
from dstack.snapshots.restore import restore
from dstack.snapshots.spread import Spread
from dstack.snapshots.store import SnapshotStore
from tests.support.failing_disk import Disk, disk
from tests.support.shop import Shop, chunk_of, killed_at
from tests.support.trees import described
from tests.support.world import World

__all__ = ["disk"]


class Synced(SnapshotStore):
    """The store as who saves through the API has it."""

    def __init__(self, context: Context) -> None:
        super().__init__(context.blobs, catalog_of(context))
        self._context = context

    def sync(self) -> None:
        sync_store(self._context)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "out"
    made.mkdir()
    return made


@pytest.fixture
def lost(world: World, disk: Disk, root: Path) -> Path:
    return lose(world.context, disk, root)


def lose(context: Context, disk: Disk, root: Path, number: int = 0) -> Path:
    """The pack of a live snapshot: the disk did not take it, and has zeros in place of one of two files."""
    for name in ("lost", "kept"):
        (root / name).write_bytes(f"{name} {number}".encode() * 2000)
    save(root, store_of(context), live=True)
    [place] = catalog_of(context).locate([chunk_of(root / "lost")]).values()
    assert isinstance(context.blobs, LocalBlobStore)
    path = context.blobs.root / pack_key(place.pack_id)
    disk.fails = [path.name]
    with pytest.raises(StoreRefused):
        save(root, Synced(context))
    data = path.read_bytes()
    path.write_bytes(data[: place.offset] + bytes(place.stored_length) + data[place.offset + place.stored_length :])
    return path


def damage(context: Context) -> list[Frame]:
    with Spread() as spread:
        return [frame for frame in Check(context, Scope(), spread, quick=False).frames() if frame["t"] == "damage"]


def test_who_saves_again_stores_again_what_was_lost(
    world: World, disk: Disk, lost: Path, root: Path, tmp_path: Path
) -> None:
    store = Synced(world.context)
    with pytest.raises(StoreRefused, match="it was put aside; save again"):
        save(root, store)
    assert not lost.exists()
    saved = save(root, store)
    assert 0 < saved.stored < 20_000, "without what was kept"
    restore(store, saved.manifest_id, tmp_path / "back")
    assert described(tmp_path / "back") == described(root)
    assert damage(world.context) == []
    packs = [lost.parents[2] / found.key for found in world.context.blobs.list("packs/")]
    assert packs
    assert all(disk.has(pack) for pack in packs)


def test_it_waits_while_others_are_at_work_on_the_store(world: World, lost: Path, root: Path) -> None:
    with held(world.context, GC, UPKEEP):
        for _ in range(2):
            with pytest.raises(
                StoreLost, match=r"yet: .* the store is under way already: wait for its end; then save again"
            ):
                save(root, Synced(world.context))
    assert lost.exists()


def test_nobody_relies_on_it_while_it_is_put_aside(
    world: World, lost: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole store is read for that; others save meanwhile, or who waited too long does so again."""
    steps, refused = TakingOut.steps, [0]

    def watched(self: TakingOut) -> Iterator[Frame]:
        for frame in steps(self):
            with pytest.raises(StoreLost, match="repairing the store is under way"):
                save(root, Synced(world.context))
            refused[0] += 1
            yield frame

    monkeypatch.setattr(TakingOut, "steps", watched)
    with pytest.raises(StoreRefused, match="it was put aside; save again"):
        save(root, Synced(world.context))
    assert refused[0] > 2, "before it was out of the catalog, and after"
    saved = save(root, Synced(world.context))
    restore(Synced(world.context), saved.manifest_id, tmp_path / "back")
    assert described(tmp_path / "back") == described(root)
    assert damage(world.context) == []


def test_a_server_that_is_killed_while_it_puts_it_aside_relies_on_it_no_more(
    world: World, disk: Disk, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any step, also where the pack has gone and the catalog could not be told."""
    killed, step = True, 0
    while killed:
        path = lose(world.context, disk, root, step)
        killed = killed_at(Shop(world, tmp_path), monkeypatch, step, lambda: refused(world.context))
        world.context = replace(world.context, blobs=LocalBlobStore(path.parents[2]))  # the next process
        store = Synced(world.context)
        for left in reversed(range(3)):
            try:
                saved = save(root, store)
            except StoreRefused:
                assert left, f"nothing can be saved for good after step {step}"
            else:
                restore(store, saved.manifest_id, tmp_path / f"back-{step}")
                assert described(tmp_path / f"back-{step}") == described(root), f"killed at step {step}"
                break
        assert damage(world.context) == [], f"killed at step {step}"
        step += 1
    assert step > 10, "there are more steps than that"


def refused(context: Context) -> None:
    with pytest.raises(StoreRefused, match="save again"):
        sync_store(context)


def test_it_says_why_it_cannot_be_put_aside(
    world: World, lost: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = world.context.blobs.put

    def full(key: str, data: Buffer | Path) -> bool:
        if key.startswith("quarantine/"):
            raise StoreRefused("disk full on /store: free space there")
        return put(key, data)

    with monkeypatch.context() as patched:
        patched.setattr(world.context.blobs, "put", full)
        for _ in range(2):
            with pytest.raises(StoreLost, match="cannot be put aside yet: disk full on /store: free space there"):
                save(root, Synced(world.context))
            assert lost.exists()
    with pytest.raises(StoreRefused, match="it was put aside"):
        save(root, Synced(world.context))
    saved = save(root, Synced(world.context))
    restore(Synced(world.context), saved.manifest_id, tmp_path / "back")
    assert damage(world.context) == []


def test_what_was_put_aside_and_is_lost_as_well_keeps_nobody_from_saving(
    world: World, disk: Disk, lost: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(world.context)
    [aside] = (lost.parents[2] / "quarantine").iterdir()
    disk.fails = [aside.name]
    with pytest.raises(StoreRefused):
        sync_store(world.context)
    read = Path.read_bytes

    def failing(path: Path) -> bytes:
        if path == aside:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", failing)
    save(root, Synced(world.context))
    assert not list(aside.parent.iterdir()), "nobody needs it"
    assert damage(world.context) == []
