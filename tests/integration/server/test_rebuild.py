"""The index made again from the packs, on both databases: `verify --rebuild-index`."""

from __future__ import annotations

import pytest
from sqlalchemy import delete, insert, update

from dstack.server.db.tables import chunks, doubtful_objects, packs
from dstack.snapshots.chunking import digest
from dstack.snapshots.interfaces import pack_key
from dstack.snapshots.statcache import FileCache
from tests.support.shop import Shop, chunk_of, killed_at, of, save_elsewhere


@pytest.mark.parametrize("lost", ["chunks", "both", "some"])
def test_a_lost_catalog_is_made_again_from_the_packs(shop: Shop, lost: str) -> None:
    roots = [shop.tree(name) for name in "abc"]
    runs = [shop.upload(root) for root in roots]
    before = sorted((bytes(row.chunk_id), bytes(row.pack_id), row.offset) for row in shop.world.rows(chunks))
    listed = sorted((bytes(row.pack_id), row.size) for row in shop.world.rows(packs))
    if lost == "some":
        for chunk_id, _, _ in before[::2]:
            shop.hurt(delete(chunks).where(chunks.c.chunk_id == chunk_id))
        shop.hurt(update(chunks).where(chunks.c.chunk_id == before[1][0]).values(stored_length=7))
        shop.hurt(update(chunks).where(chunks.c.chunk_id == before[3][0]).values(pack_id=digest(b"none")))
        shop.hurt(update(packs).where(packs.c.pack_id == listed[0][0]).values(size=12))
    else:
        shop.hurt(delete(chunks))
        if lost == "both":
            shop.hurt(delete(packs))
    assert of(shop.check(), "damage")
    [done] = of(shop.rebuild(), "rebuilt")
    assert done["dropped"] == 0
    assert sorted((bytes(row.chunk_id), bytes(row.pack_id), row.offset) for row in shop.world.rows(chunks)) == before
    assert sorted((bytes(row.pack_id), row.size) for row in shop.world.rows(packs)) == listed
    assert not of(shop.check(), "damage")
    assert all(shop.reads_as(run, root) for run, root in zip(runs, roots, strict=True))


def test_making_the_index_again_drops_what_is_nowhere(shop: Shop) -> None:
    root = shop.tree("a")
    cache = FileCache()
    run = shop.upload(root, cache=cache)
    kept = shop.upload(shop.tree("b"))
    ghost = {
        "project_id": shop.context.project_id, "chunk_id": digest(b"ghost"), "pack_id": digest(b"gone"), "offset": 8,
        "stored_length": 5, "raw_length": 5, "codec": 0,
    }  # fmt: skip
    shop.hurt(insert(chunks), ghost)
    pack_id = shop.pack_of(chunk_of(root / "0"))
    shop.blobs.delete([pack_key(pack_id)])
    [done] = of(shop.rebuild(), "rebuilt")
    assert done["dropped"] > 1
    assert not shop.world.rows(chunks, chunk_id=digest(b"ghost"))
    assert not shop.world.rows(chunks, pack_id=pack_id)
    assert shop.reads_as(kept, shop.folder / "b")
    shop.upload(root, cache=cache)
    assert not of(shop.check(), "damage")
    assert shop.reads_as(run, root)


def test_a_pack_with_a_damaged_tail_keeps_the_rows_that_are_right(shop: Shop) -> None:
    root = shop.tree("a")
    run = shop.upload(root)
    pack_id = shop.pack_of(chunk_of(root / "0"))
    shop.rewrite(pack_id, lambda data: data[:-20])
    frames = shop.rebuild()
    assert [frame["id"] for frame in of(frames, "damage")] == [pack_id.hex()]
    assert of(frames, "rebuilt")[0]["dropped"] == 0
    assert shop.reads_as(run, root)
    shop.check(repair=True)
    assert not of(shop.check(), "damage")
    assert shop.reads_as(run, root)


@pytest.mark.parametrize("lost", ["pack", "rows"])
def test_an_index_that_is_made_again_and_killed_at_any_step_says_nothing_that_is_not_so(
    sqlite_shop: Shop, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """Objects come back whose pieces are gone: with a lost pack, or as garbage that was collected half."""
    shop = sqlite_shop
    (shop.folder / "part").mkdir()
    (shop.folder / "whole").mkdir()
    for step in range(60):
        empty(shop)
        (shop.folder / "part" / "piece").write_text(f"piece {step}")
        shop.upload(shop.folder / "part")  # so that the piece lies in another pack than what will name it
        (shop.folder / "whole" / "piece").write_text(f"piece {step}")
        cache = FileCache()
        run = shop.upload(shop.folder / "whole", cache=cache)
        gone = shop.pack_of(chunk_of(shop.folder / "part" / "piece"))
        shop.blobs.delete([pack_key(gone)])
        if lost == "pack":
            shop.hurt(delete(chunks))
            shop.hurt(delete(packs))
        else:
            shop.hurt(delete(chunks).where(chunks.c.pack_id.in_([gone, shop.pack_of(shop.manifest(run))])))
            shop.hurt(delete(packs).where(packs.c.pack_id == gone))
        killed = killed_at(shop, monkeypatch, step, shop.rebuild)
        assert shop.manifest(shop.upload(shop.folder / "whole", cache=cache)) == shop.manifest(run)
        assert shop.reads_as(run, shop.folder / "whole"), f"saved again after step {step}"
        shop.rebuild()
        assert shop.reads_as(run, shop.folder / "whole"), f"made again after step {step}"
        if not killed:
            assert step > 5, "there are more steps than that"
            return
    raise AssertionError("it never came to an end")


def empty(shop: Shop) -> None:
    for table in (chunks, packs, doubtful_objects):
        shop.hurt(delete(table))
    shop.blobs.delete([info.key for info in shop.blobs.list("packs/")])


def test_a_pack_that_was_freed_is_not_listed_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left behind by a save that was killed, seen in the store, and collected at that moment."""
    root = shop.tree("a")
    shop.upload(root)
    copy = save_elsewhere(shop, root)
    [info] = [info for info in shop.blobs.list("packs/") if info.key == pack_key(copy)]
    infos = list(shop.blobs.list("packs/"))
    shop.blobs.delete([info.key])
    monkeypatch.setattr(shop.blobs, "list", lambda _: iter(infos))
    assert of(shop.rebuild(), "rebuilt")
    assert not shop.world.rows(packs, pack_id=copy)
