"""A repair that is killed, and one beside others that write: nothing that is right is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import update

from dstack.server.db.tables import artifacts, chunks, doubtful_objects, packs
from dstack.server.services.catalog import store_of
from dstack.server.services.heal import Healer
from dstack.snapshots.checking import located
from dstack.snapshots.interfaces import pack_key
from dstack.snapshots.packs import PackBuilder, read_index
from dstack.snapshots.restore import restore
from dstack.snapshots.spread import Spread
from dstack.snapshots.statcache import FileCache
from tests.support.shop import Shop, chunk_of, killed_at, save_elsewhere


def test_a_repair_that_is_killed_at_any_step_loses_nothing_that_was_right(
    sqlite_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = sqlite_shop
    root = shop.folder / "tree"
    root.mkdir()
    killed, step = True, 0
    while killed:
        for name in ("hurt", "kept"):  # new each time, so that both come to lie in one pack
            (root / name).write_text(f"{name} {step}")
        run = shop.upload(root)
        shop.damage(chunk_of(root / "hurt"))
        killed = killed_at(shop, monkeypatch, step)
        for when in ("killed", "repaired"):
            target = shop.folder / f"{when}-{step}"
            restore(store_of(shop.context), shop.manifest(run), target, paths=[b"kept"])
            assert (target / "kept").read_text() == f"kept {step}", f"{when} at step {step}"
            shop.check(repair=True)
        shop.upload(root)
        assert shop.reads_as(run, root), f"saved again after step {step}"
        step += 1
    assert step > 10, "there are more steps than that"


def test_a_repair_that_is_killed_leaves_doubts_as_they_were(sqlite_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object is doubted, is damaged itself, and another copy of it is found: what it names is gone all the same."""
    shop = sqlite_shop
    (shop.folder / "part").mkdir()
    root, cache = shop.tree("a"), FileCache()
    (shop.folder / "part" / "piece").write_bytes((root / "1").read_bytes())
    shop.upload(shop.folder / "part")
    run = shop.upload(root, cache=cache)
    shop.damage(chunk_of(root / "1"))
    shop.check(repair=True)
    manifest = shop.manifest(run)
    assert shop.world.rows(doubtful_objects, object_id=manifest)
    builder = PackBuilder()
    builder.add(manifest, bytes(store_of(shop.context).read_chunk(manifest)))
    sealed, index = builder.seal()
    shop.blobs.put(pack_key(index.pack_id), sealed)
    shop.damage(manifest)
    for step in range(60):
        if not killed_at(shop, monkeypatch, step):
            break
        assert not shop.world.rows(chunks, chunk_id=manifest) or shop.world.rows(doubtful_objects, object_id=manifest)
    shop.upload(root, cache=cache)
    assert shop.reads_as(run, root)


def test_a_pack_that_goes_while_it_is_put_is_put_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repair that was killed had stored the new pack; that was condemned, and is deleted at this moment."""
    root = shop.tree("a")
    shop.upload(root)
    shop.damage(chunk_of(root / "1"))
    plain, gone = shop.blobs.put, list[str]()

    def put(key: str, data: Any) -> bool:
        done = plain(key, data)
        if key.startswith("packs/") and not gone:
            gone.append(key)
            shop.blobs.delete([key])
        return done

    monkeypatch.setattr(shop.blobs, "put", put)
    shop.check(repair=True)
    assert gone
    assert all(shop.blobs.stat(pack_key(bytes(row.pack_id))) for row in shop.world.rows(packs))
    restore(store_of(shop.context), digest_of_run(shop), shop.folder / "rest", paths=[b"0", b"deep"])


def digest_of_run(shop: Shop) -> bytes:
    return next(bytes(row.manifest_id) for row in shop.world.rows(artifacts))


def test_how_far_damage_spreads_is_worked_out_while_others_can_write(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shop.tree("a")
    shop.upload(root)
    shop.damage(chunk_of(root / "1"))
    write, spread, writing, spreads = shop.context.database.write, Spread.spread, [0], [0]

    def counted(name: str, work: Callable[[Any], Any]) -> Any:
        writing[0] += 1
        try:
            return write(name, work)
        finally:
            writing[0] -= 1

    def free(self: Spread) -> None:
        assert not writing[0]
        spreads[0] += 1
        spread(self)

    monkeypatch.setattr(shop.context.database, "write", counted)
    monkeypatch.setattr(Spread, "spread", free)
    shop.check(repair=True)
    assert spreads[0] == 2, "for the check, and for the repair"


def test_what_is_saved_again_while_it_is_taken_out_stays(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    root = shop.tree("a")
    run = shop.upload(root)
    hurt = chunk_of(root / "1")
    shop.damage(hurt)
    copy = save_elsewhere(shop, root)
    spread, spreads = Spread.spread, [0]

    def late(self: Spread) -> None:
        spread(self)
        spreads[0] += 1
        if spreads[0] == 2:  # the repair is about to take it out
            index = located(read_index(shop.blobs, pack_key(copy), len(shop.blobs.get(pack_key(copy)))))
            place = index[hurt]
            where = update(chunks).where(chunks.c.chunk_id == hurt)
            shop.hurt(where.values(pack_id=copy, offset=place.offset, stored_length=place.stored_length))

    monkeypatch.setattr(Spread, "spread", late)
    monkeypatch.setattr(Healer, "_find_copies", lambda *_, **__: iter(()))
    shop.check(repair=True)
    assert spreads[0] == 2
    assert shop.reads_as(run, root)
