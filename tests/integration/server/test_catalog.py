"""The catalog in the database: who is told that a chunk is there relies on it, and only what is stored is recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dstack.domain.ports import SECOND
from dstack.server.db.engine import declare_write
from dstack.server.db.tables import packs
from dstack.server.services.catalog import ASKED, ASKED_TO, catalog_of, hold, store_of
from dstack.server.services.errors import BadRequest
from dstack.snapshots.capture import save
from dstack.snapshots.interfaces import ChunkEntry, PackIndex, pack_key
from tests.support.world import World, counted, digest

HOLD = declare_write("test-hold")
DAY = 86400.0


def saved(world: World, folder: Path, content: str = "content") -> bytes:
    """The manifest id of a folder that was saved into the world's store."""
    folder.mkdir(exist_ok=True)
    (folder / "file").write_text(content)
    return save(folder, store_of(world.context)).manifest_id


def asked_at(world: World) -> set[int]:
    return {row.asked_at for row in world.rows(packs)}


def test_a_question_is_noted_once_in_a_while(world: World, tmp_path: Path) -> None:
    manifest_id = saved(world, tmp_path / "a")
    saved(world, tmp_path / "b", "of another pack")
    made = world.clock.now()
    assert asked_at(world) == {made}
    catalog = catalog_of(world.context)
    world.clock.advance(ASKED_TO / SECOND - 1)
    statements: list[str] = []
    with counted(statements):
        assert catalog.missing([manifest_id, digest("other")]) == {digest("other")}
    assert asked_at(world) == {made}
    world.clock.advance(1)
    assert catalog.missing([manifest_id, digest("other")]) == {digest("other")}
    assert asked_at(world) == {made, world.clock.now()}, "the pack of what was not asked about is as before"


def test_what_only_is_looked_for_is_not_asked_about(world: World, tmp_path: Path) -> None:
    manifest_id = saved(world, tmp_path / "a")
    made = world.clock.now()
    world.clock.advance(DAY)
    assert manifest_id in catalog_of(world.context).locate([manifest_id])
    assert asked_at(world) == {made}


def test_holding_names_what_is_missing(world: World, tmp_path: Path) -> None:
    manifest_id = saved(world, tmp_path / "a")
    world.clock.advance(DAY)
    project = world.context.project_id
    lacking = world.context.database.write(HOLD, lambda tx: hold(tx, project, [manifest_id, digest("other")]))
    assert lacking == {digest("other")}
    assert world.clock.now() in asked_at(world)


def test_a_chunk_that_went_while_its_pack_was_locked_is_missing(world: World, tmp_path: Path) -> None:
    """Collecting garbage had the pack when the question came: the answer is what it left."""
    from sqlalchemy import delete

    from dstack.server.db.tables import chunks

    manifest_id = saved(world, tmp_path / "a")
    world.clock.advance(DAY)
    database = world.context.database
    catalog = catalog_of(world.context)
    plain = database.write

    def write(name: str, work: Any) -> Any:
        if name == ASKED:  # it comes in between the look and the write
            plain(HOLD, lambda tx: tx.execute(delete(chunks)))
        return plain(name, work)

    database.write = write
    assert catalog.missing([manifest_id]) == {manifest_id}


def test_only_packs_that_are_stored_whole_are_recorded(world: World, tmp_path: Path) -> None:
    pack_id = digest("pack")
    pack = PackIndex(pack_id, 3, (ChunkEntry(digest("chunk"), 8, 1, 1),))
    catalog = catalog_of(world.context)
    with pytest.raises(BadRequest, match="is not in the store whole"):
        catalog.add([pack])
    world.context.blobs.put(pack_key(pack_id), b"ab")
    with pytest.raises(BadRequest, match="is not in the store whole"):
        catalog.add([pack])
    assert world.rows(packs) == []
    world.context.blobs.delete([pack_key(pack_id)])
    world.context.blobs.put(pack_key(pack_id), b"abc")
    catalog.add([pack])
    assert catalog.missing([digest("chunk")]) == set()


def test_a_pack_that_comes_back_stays(world: World) -> None:
    from sqlalchemy import update

    pack = PackIndex(digest("pack"), 3, (ChunkEntry(digest("chunk"), 8, 1, 1),))
    world.context.blobs.put(pack_key(pack.pack_id), b"abc")
    catalog = catalog_of(world.context)
    catalog.add([pack])
    world.context.database.write(HOLD, lambda tx: tx.execute(update(packs).values(condemned_at=tx.now)))
    world.clock.advance(DAY)
    catalog.add([pack])
    [row] = world.rows(packs)
    assert (row.condemned_at, row.asked_at) == (None, world.clock.now())
