"""What checking a store finds, on both databases: damage is named with the runs it touches, and no more."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import delete, insert, update

from dstack.server.db.tables import chunks, packs
from dstack.server.db.tables import runs as runs_table
from dstack.server.services import delete as deleting
from dstack.server.services.catalog import store_of
from dstack.server.services.ledger import Scope
from dstack.snapshots.capture import save
from dstack.snapshots.chunking import digest
from dstack.snapshots.errors import DamagedStore
from dstack.snapshots.interfaces import pack_key
from dstack.snapshots.packs import FOOTER
from dstack.snapshots.spread import Spread
from tests.support.shop import Shop, chunk_of, flipped, of


@pytest.mark.parametrize("quick", [False, True])
def test_a_healthy_store(shop: Shop, quick: bool) -> None:
    root = shop.tree("a")
    run = shop.upload(root)
    for frames in (shop.check(quick=quick), shop.check(run, quick=quick)):
        assert not of(frames, "damage")
        assert not of(frames, "touched")
        assert not of(frames, "unreferenced")
        assert frames[-1]["damages"] == 0
        assert frames[-1]["packs"] >= 1
    stored = sum(row.size for row in shop.world.rows(packs))
    everything = shop.check()
    assert sum(frame["bytes"] for frame in of(everything, "done")) == of(everything, "total")[0]["bytes"] == stored
    assert everything[-1]["bytes"] == stored, "every byte was read"


def test_a_damaged_chunk_is_named_with_every_run_and_file_it_touches(shop: Shop) -> None:
    root = shop.tree("a")
    first = shop.upload(root)
    (root / "more").write_text("more")
    second = shop.upload(root, path="results")
    other = shop.upload(shop.tree("b"))
    pack_id = shop.damage(chunk_of(root / "1"))
    frames = shop.check()
    [chunk] = [frame for frame in of(frames, "damage") if frame["kind"] == "chunk"]
    assert (chunk["id"], chunk["pack"]) == (chunk_of(root / "1").hex(), pack_id.hex())
    assert "BLAKE3" in chunk["what"]
    [pack] = [frame for frame in of(frames, "damage") if frame["kind"] == "pack"]
    assert pack["id"] == pack_id.hex()
    assert "1 of its" in pack["what"]
    touched = of(frames, "touched")
    assert [(frame["run"], frame["job"], frame["path"], frame["files"]) for frame in touched] == [
        (first, "upload", "out", ["1"]),
        (second, "upload", "results", ["1"]),
    ]
    assert not of(shop.check(other), "damage")
    [of_run] = of(shop.check(second), "damage")
    assert of_run["id"] == chunk["id"]
    assert [frame["run"] for frame in of(shop.check(second), "touched")] == [second]


def test_a_damaged_folder_is_named_by_its_path(shop: Shop) -> None:
    root = shop.tree("a")
    run = shop.upload(root)
    deep = next(
        folder
        for folder in (bytes(row.chunk_id) for row in shop.world.rows(chunks))
        if is_folder_of(shop, folder, b"er")
    )
    shop.damage(deep)
    for frames in (shop.check(), shop.check(run)):
        [touched] = of(frames, "touched")
        assert touched["files"] == ["deep/"]
        assert deep.hex() in {frame["id"] for frame in of(frames, "damage")}


def is_folder_of(shop: Shop, object_id: bytes, name: bytes) -> bool:
    data = store_of(shop.context).read_chunk(object_id)
    return data.startswith(b"DSTACKd") and name in data and len(data) < 400 and b"deep" not in data


def test_damage_in_the_code_of_a_run(shop: Shop) -> None:
    """`verify RUN` looks at what was shipped, too."""
    run = shop.upload(shop.tree("a"))
    code = shop.tree("code")
    saved = save(code, store_of(shop.context))
    shop.hurt(update(runs_table).where(runs_table.c.name == run).values(code_manifest_id=saved.manifest_id))
    shop.damage(chunk_of(code / "2"))
    for frames in (shop.check(), shop.check(run)):
        [touched] = of(frames, "touched")
        assert (touched["kind"], touched["run"], touched["job"], touched["files"]) == ("code", run, None, ["2"])


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("what", ["gone", "cut", "tail"])
def test_packs_that_are_gone_or_cut_short(shop: Shop, what: str, quick: bool) -> None:
    root = shop.tree("a")
    run = shop.upload(root)
    pack_id = shop.pack_of(chunk_of(root / "0"))
    if what == "gone":
        shop.blobs.delete([pack_key(pack_id)])
    elif what == "cut":
        shop.rewrite(pack_id, lambda data: data[: len(data) // 2])
    else:
        shop.rewrite(pack_id, lambda data: flipped(data, len(data) - FOOTER.size - 3))
    for frames in (shop.check(quick=quick), *([shop.check(run, quick=quick)] if what != "tail" or quick else [])):
        assert pack_id.hex() in {frame["pack"] for frame in of(frames, "damage")}
        assert bool(of(frames, "touched")) == (what != "tail"), "a pack whose chunks are right can be read"
    if what != "tail":
        with pytest.raises(DamagedStore):
            shop.restored(run, "broken")


def test_rows_that_lie_and_rows_that_are_lost(shop: Shop) -> None:
    root = shop.tree("a")
    run = shop.upload(root)
    lie, lost = chunk_of(root / "0"), chunk_of(root / "1")
    shop.hurt(update(chunks).where(chunks.c.chunk_id == lie).values(offset=chunks.c.offset + 5))
    shop.hurt(delete(chunks).where(chunks.c.chunk_id == lost))
    frames = shop.check()
    kinds = {(frame["kind"], frame["id"]) for frame in of(frames, "damage")}
    assert kinds == {("row", lie.hex()), ("chunk", lost.hex())}
    assert [frame["files"] for frame in of(frames, "touched")] == [["0", "1"]]
    repaired = shop.check(repair=True)
    assert of(repaired, "repaired")[0]["restored"] == 2
    assert of(repaired, "repaired")[0]["dropped"] == 0
    assert not of(shop.check(), "damage")
    assert shop.reads_as(run, root)


def test_what_no_row_names_is_told_and_is_no_damage(shop: Shop) -> None:
    shop.upload(shop.tree("a"))
    shop.blobs.put(pack_key(digest(b"left behind")), b"left behind")
    shop.blobs.put("packs/zz/notes", b"not a pack")
    frames = shop.check()
    assert not of(frames, "damage")
    assert {(frame["key"], frame["size"]) for frame in of(frames, "unreferenced")} == {
        (pack_key(digest(b"left behind")), 11),
        ("packs/zz/notes", 10),
    }


def test_packs_that_go_soon_are_no_damage(shop: Shop) -> None:
    root = shop.tree("a")
    shop.upload(root)
    condemned = {"project_id": shop.context.project_id, "pack_id": digest(b"x"), "size": 9, "created_at": 1}
    shop.hurt(insert(packs), {**condemned, "condemned_at": 2})
    assert not of(shop.check(), "damage")


def test_what_is_deleted_meanwhile_is_no_damage(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run goes, and gc takes what only it had, between the look at its references and the one at its chunks."""
    root = shop.tree("a")
    run = shop.upload(root)
    plain = Spread.add_objects

    def late(self: Spread, ids: Any, kind: bytes = b"") -> None:
        plain(self, ids, kind)
        monkeypatch.setattr(Spread, "add_objects", plain)
        deleting.delete(shop.context, [run], force=True, actor=None)
        shop.hurt(delete(chunks).where(chunks.c.chunk_id == chunk_of(root / "0")))

    monkeypatch.setattr(Spread, "add_objects", late)
    frames = shop.check()
    assert not of(frames, "damage")
    assert frames[-1]["damages"] == 0
    assert Scope().is_everything


def test_without_repair_nothing_is_changed(shop: Shop) -> None:
    root = shop.tree("a")
    shop.upload(root)
    shop.damage(chunk_of(root / "1"))

    def state() -> Any:
        return (
            sorted((bytes(row.chunk_id), bytes(row.pack_id), row.offset) for row in shop.world.rows(chunks)),
            sorted(info.key for info in shop.blobs.list("")),
        )

    before = state()
    shop.check()
    assert state() == before
