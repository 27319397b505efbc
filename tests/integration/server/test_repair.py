"""What a repair brings back, on both databases, by itself and with what is saved after it."""

from __future__ import annotations

import errno
import random

import pytest
from sqlalchemy import delete, update

from dstack.server.db.tables import chunks, doubtful_objects, packs
from dstack.server.loops.upkeep import keep_house
from dstack.server.services.catalog import store_of
from dstack.snapshots.chunking import digest
from dstack.snapshots.errors import DamagedStore
from dstack.snapshots.interfaces import pack_key
from dstack.snapshots.manifests import FileEntry
from dstack.snapshots.restore import restore
from dstack.snapshots.statcache import FileCache
from tests.support.garbage import LATER, gathered
from tests.support.objects import encode_directory
from tests.support.shop import Shop, chunk_of, flipped, of, save_elsewhere


@pytest.mark.parametrize("whole", [True, False])
def test_repair_keeps_what_is_right_and_saving_again_brings_back_the_rest(shop: Shop, whole: bool) -> None:
    root = shop.tree("a")
    cache = FileCache()
    run = shop.upload(root, cache=cache)
    hurt = chunk_of(root / "1")
    pack_id = shop.damage(hurt)
    before = {bytes(row.chunk_id) for row in shop.world.rows(chunks)}
    frames = shop.check(None if whole else run, repair=True)
    [aside] = of(frames, "aside")
    assert aside["pack"] == pack_id.hex()
    assert shop.blobs.stat(aside["key"]) is not None
    assert shop.blobs.stat(pack_key(pack_id)) is None
    after = {bytes(row.chunk_id) for row in shop.world.rows(chunks)}
    assert hurt not in after
    assert chunk_of(root / "0") in after, "what is right in the damaged pack stays"
    assert after == before - {hurt}
    with pytest.raises(DamagedStore, match=hurt.hex()):
        shop.restored(run, "not yet")
    restore(store_of(shop.context), shop.manifest(run), shop.folder / "rest", paths=[b"0", b"deep"])
    assert (shop.folder / "rest" / "0").read_bytes() == (root / "0").read_bytes(), "the other files can be read"
    # The cache says that nothing changed: the folder is written again all the same, for the catalog doubts it.
    again = shop.upload(root, cache=cache)
    assert shop.manifest(again) == shop.manifest(run)
    assert not shop.world.rows(doubtful_objects)
    assert not of(shop.check(), "damage")
    assert shop.reads_as(run, root)


def test_the_same_file_in_another_folder_heals_it_too(shop: Shop) -> None:
    root = shop.tree("a")
    run = shop.upload(root)
    shop.damage(chunk_of(root / "1"))
    shop.check(repair=True)
    (shop.folder / "other").mkdir()
    (shop.folder / "other" / "copy").write_bytes((root / "1").read_bytes())
    shop.upload(shop.folder / "other")
    assert not of(shop.check(), "damage")
    assert shop.reads_as(run, root)
    assert shop.world.rows(doubtful_objects, object_id=shop.manifest(run)), "nobody has looked yet"
    shop.damage(chunk_of(root / "2"))
    shop.check(repair=True)
    shop.upload(root)
    assert not shop.world.rows(doubtful_objects)
    assert not of(shop.check(), "damage")


def test_a_repair_of_one_run_sees_what_else_its_packs_lack(shop: Shop) -> None:
    """Two runs have chunks in one pack, and both are damaged: none may be named by what is not doubted."""
    root, cache = shop.tree("a"), FileCache()
    shop.upload(root)
    (shop.folder / "part").mkdir()
    (shop.folder / "part" / "copy").write_bytes((root / "1").read_bytes())
    part = shop.upload(shop.folder / "part")
    whole = shop.upload(root, cache=cache)
    assert shop.damage(chunk_of(root / "1")) == shop.damage(chunk_of(root / "2"))
    frames = shop.check(part, repair=True)
    told = {frame["id"] for frame in of(frames, "damage")}
    assert told >= {chunk_of(root / "1").hex(), chunk_of(root / "2").hex()}
    shop.upload(root, cache=cache)
    assert not of(shop.check(), "damage")
    assert shop.reads_as(whole, root)


def test_a_folder_that_only_one_run_reads_is_healed_by_a_repair_of_that_run(shop: Shop) -> None:
    root = shop.tree("a")
    run = shop.upload(root)
    pack_id = shop.damage(shop.manifest(run))
    assert of(shop.check(run, repair=True), "aside")[0]["pack"] == pack_id.hex()
    shop.upload(root)
    assert not of(shop.check(), "damage")
    assert shop.reads_as(run, root)


@pytest.mark.parametrize("quick", [False, True])
def test_a_disk_that_cannot_read_one_place(shop: Shop, monkeypatch: pytest.MonkeyPatch, quick: bool) -> None:
    root = shop.tree("a", files=30)
    run = shop.upload(root)
    [row] = shop.world.rows(chunks, chunk_id=chunk_of(root / "7"))
    plain, key = shop.blobs.get, pack_key(bytes(row.pack_id))

    def get(name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        data = plain(name, offset=offset, length=length)
        if name == key and offset <= row.offset + 100 < offset + len(data):
            raise OSError(errno.EIO, "Input/output error")
        return data

    monkeypatch.setattr(shop.blobs, "get", get)
    frames = shop.check(quick=quick)
    assert ("7" in of(frames, "touched")[0]["files"]) if not quick else True
    assert of(shop.check(run), "damage")
    shop.check(repair=True)
    shop.upload(root)
    assert not of(shop.check(), "damage")
    assert shop.reads_as(run, root)


def test_saving_the_same_again_heals_a_pack_that_is_gone(shop: Shop) -> None:
    root = shop.tree("a")
    run = shop.upload(root)
    for row in shop.world.rows(packs):
        shop.blobs.delete([pack_key(bytes(row.pack_id))])
    shop.check(repair=True)
    assert not shop.world.rows(chunks)
    assert not shop.world.rows(packs)
    shop.upload(root)
    assert not of(shop.check(), "damage")
    assert shop.reads_as(run, root)


def test_another_copy_heals_without_anybody_saving_again(shop: Shop) -> None:
    root = shop.tree("a")
    run = shop.upload(root)
    # As two writers that raced leave it: a second pack with the same chunks, which no row points to.
    copy = save_elsewhere(shop, root)
    assert shop.damage(chunk_of(root / "1")) != copy
    frames = shop.check(repair=True)
    assert of(frames, "repaired")[0]["dropped"] == 0
    assert not of(shop.check(), "damage")
    assert shop.reads_as(run, root)


def test_a_file_that_looks_like_an_object_is_not_taken_for_one(shop: Shop) -> None:
    """It names what is nowhere; that is no reason to forget it."""
    root = shop.tree("a")
    [fake] = encode_directory([FileEntry(b"x", 0o644, 0, 5, digest(b"nowhere"))])
    (root / "fake").write_bytes(fake.data)
    run = shop.upload(root)
    assert not of(shop.check(), "damage")
    other = shop.upload(shop.tree("b"))
    shop.damage(chunk_of(shop.folder / "b" / "0"))
    shop.check(repair=True)
    assert shop.world.rows(chunks, chunk_id=fake.id)
    assert {frame["run"] for frame in of(shop.check(), "touched")} == {other}
    assert shop.reads_as(run, root)


def test_random_damage_is_found_and_healed(shop: Shop) -> None:
    """Any mixture of damages: repaired and saved again, everything reads as it was."""
    rng = random.Random(11)
    roots = [shop.tree(f"t{number}", files=6) for number in range(4)]
    runs = [shop.upload(root) for root in roots]
    for _ in range(4):
        for _ in range(3):
            hurt_at_random(shop, rng)
        shop.check(repair=True)
        for root in roots:
            shop.upload(root)
        assert not of(shop.check(), "damage")
        assert all(shop.reads_as(run, root) for run, root in zip(runs, roots, strict=True))


def hurt_at_random(shop: Shop, rng: random.Random) -> None:
    infos = list(shop.blobs.list("packs/"))
    pack_id = bytes.fromhex(rng.choice(infos).key[-64:])
    row = rng.choice(shop.world.rows(chunks))
    match rng.choice(["bit", "cut", "gone", "lost", "offset", "pack"]):
        case "bit":
            shop.rewrite(pack_id, lambda data: flipped(data, rng.randrange(len(data))))
        case "cut":
            shop.rewrite(pack_id, lambda data: data[: rng.randrange(len(data))])
        case "gone":
            shop.blobs.delete([pack_key(pack_id)])
        case "lost":
            shop.hurt(delete(chunks).where(chunks.c.chunk_id == row.chunk_id))
        case "offset":
            shop.hurt(update(chunks).where(chunks.c.chunk_id == row.chunk_id).values(offset=rng.randrange(10_000)))
        case _:
            shop.hurt(update(chunks).where(chunks.c.chunk_id == row.chunk_id).values(pack_id=rng.randbytes(32)))


def test_what_was_taken_out_is_forgotten_when_nobody_can_rely_on_it_any_more(shop: Shop) -> None:
    root = shop.tree("a")
    run = shop.upload(root)
    hurt = chunk_of(root / "1")
    shop.damage(hurt)
    shop.check(repair=True)
    shop.world.clock.advance(LATER / 3)
    gathered(shop.world)
    assert shop.world.rows(doubtful_objects, object_id=hurt), "some may have been told that it is there"
    shop.world.clock.advance(LATER)
    gathered(shop.world)
    assert not shop.world.rows(doubtful_objects, object_id=hurt)
    assert shop.world.rows(doubtful_objects, object_id=shop.manifest(run)), "what names it is there"
    shop.upload(root)
    assert shop.reads_as(run, root)


def test_it_is_forgotten_without_anybody_who_collects_garbage(shop: Shop) -> None:
    root = shop.tree("a")
    shop.upload(root)
    hurt = chunk_of(root / "1")
    shop.damage(hurt)
    shop.check(repair=True)
    (root / "1").unlink()
    shop.upload(root)
    assert keep_house(shop.context) == 0
    assert shop.world.rows(doubtful_objects, object_id=hurt)
    shop.world.clock.advance(LATER)
    assert keep_house(shop.context) == 1
    assert not shop.world.rows(doubtful_objects, object_id=hurt)
    assert keep_house(shop.context) == 0, "nothing is written where nothing is to go"
