"""A store whose disk was taken away while the server runs: nothing is said of what it holds, and nothing changed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dstack.embedded.store_place import NAME
from dstack.server.db.tables import chunks, packs
from dstack.server.loops.upkeep import RETRY, Upkeep
from dstack.server.services import delete
from dstack.server.services.catalog import store_of
from dstack.snapshots.capture import save
from dstack.snapshots.errors import StoreGone
from dstack.snapshots.restore import restore
from dstack.snapshots.store import Shared
from tests.support.garbage import LATER, gathered, stored
from tests.support.shop import Shop, of


@contextmanager
def away(shop: Shop, mount_point: bool) -> Iterator[Path]:
    """The store's disk is not mounted; there may be an empty folder in its place."""
    store = shop.world.context.settings.home / "server" / "store"
    elsewhere = store.with_name("disk")
    store.rename(elsewhere)
    if mount_point:
        store.mkdir()
    yield store
    if mount_point:
        assert not list(store.iterdir()), "nothing was put where the disk belongs"
        store.rmdir()
    elsewhere.rename(store)


@pytest.mark.parametrize("mount_point", [False, True])
def test_nothing_is_taken_for_lost(shop: Shop, tmp_path: Path, mount_point: bool) -> None:
    run = shop.upload(shop.tree("a"))
    before = shop.world.rows(chunks), shop.world.rows(packs)
    with away(shop, mount_point) as store:
        for work in (
            shop.check,
            lambda: shop.check(run),
            lambda: shop.check(quick=True),
            lambda: shop.check(repair=True),
            shop.rebuild,
            lambda: save(shop.tree("b"), store_of(shop.world.context)),
            lambda: restore(store_of(shop.world.context), shop.manifest(run), tmp_path / "out"),
        ):
            with pytest.raises(StoreGone, match=f"{store}: its disk is not mounted, .*; mount the disk, and try again"):
                work()
    assert (shop.world.rows(chunks), shop.world.rows(packs)) == before
    assert not of(shop.check(), "damage")
    assert shop.reads_as(run, shop.folder / "a")


def test_what_is_to_be_deleted_stays_known(shop: Shop) -> None:
    """Else it would be found again with the disk, and belong to nobody."""
    world = shop.world
    run = shop.upload(shop.tree("a"))
    delete.delete(world.context, [run], force=False, actor=None)
    world.clock.advance(LATER)
    gathered(world)
    condemned = world.rows(packs)
    world.clock.advance(world.settings.upkeep_after + world.settings.gc_condemned)
    upkeep = Upkeep(world.context)
    world.clock.advance(upkeep.wait())
    with away(shop, mount_point=True):
        with pytest.raises(StoreGone):
            upkeep.look()
        assert upkeep.wait() == RETRY
        assert isinstance(world.context.blobs, Shared)
        with pytest.raises(StoreGone):
            world.context.blobs.note("packs/ab/put-by-a-runner")
    assert world.rows(packs) == condemned
    world.clock.advance(RETRY)
    upkeep.look()
    assert not world.rows(packs)
    assert stored(world) == 0


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_store_whose_mark_cannot_be_read_is_gone(shop: Shop, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    run = shop.upload(shop.tree("a"))
    read = Path.read_bytes

    def failing(path: Path) -> bytes:
        if path.name == NAME:
            raise OSError(number, os.strerror(number))
        return read(path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", failing)
        with pytest.raises(StoreGone):
            save(shop.tree("b"), store_of(shop.world.context))
    assert shop.reads_as(run, shop.folder / "a")


def test_another_store_in_its_place_is_not_taken_for_it(shop: Shop) -> None:
    shop.upload(shop.tree("a"))
    mark = shop.world.context.settings.home / "server" / "store" / NAME
    kept = mark.read_text()
    with away(shop, mount_point=True) as store:
        mark.write_text('{"store": "another", "state": "whole"}')
        with pytest.raises(StoreGone):
            shop.check()
        (store / NAME).unlink()
    assert mark.read_text() == kept
