"""Packs that are more than half dead, on both databases: what lives is packed anew, and damage is left alone."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from dstack.server.db.tables import chunks
from dstack.server.loops.upkeep import keep_house
from dstack.server.services import delete
from dstack.snapshots import writer
from dstack.snapshots.interfaces import pack_key
from dstack.snapshots.packs import read_index
from tests.support.garbage import LATER, foreseen, gathered, is_whole, noise, stored, uploaded
from tests.support.world import World


def test_of_a_pack_that_is_more_than_half_dead_the_rest_is_packed_anew(world: World, tmp_path: Path) -> None:
    kept = {"kept": noise(1, 50_000)}
    first = uploaded(world, tmp_path / "a", {**kept, "dead": noise(2, 200_000)})
    second = uploaded(world, tmp_path / "b", kept)
    delete.delete(world.context, [first], force=False, actor=None)
    world.clock.advance(LATER)
    would = foreseen(world)
    end = gathered(world)
    assert end["why"] == would["why"]
    assert (end["why"]["half-dead"]["packs"], end["written"] > 50_000) == (1, True)
    world.clock.advance(world.settings.gc_condemned)
    keep_house(world.context)
    assert stored(world) < 60_000
    assert is_whole(world, second, tmp_path / "got", kept)
    world.clock.advance(LATER)
    assert gathered(world)["why"] == {}, "nothing is left to do"


def test_packs_that_are_made_of_others_hold_no_more_chunks_than_any(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {f"kept-{number}": noise(number, 700) for number in range(10)}
    first = uploaded(world, tmp_path / "a", {**kept, "dead": noise(99)})
    second = uploaded(world, tmp_path / "b", kept)
    delete.delete(world.context, [first], force=False, actor=None)
    world.clock.advance(LATER)
    monkeypatch.setattr(writer, "PACK_CHUNKS", 4)
    assert gathered(world)["why"]["half-dead"]["packs"] == 1
    world.clock.advance(world.settings.gc_condemned)
    keep_house(world.context)
    blobs = world.context.blobs
    counts = [len(read_index(blobs, info.key, info.size).chunks) for info in blobs.list("packs/")]
    assert sum(counts) >= len(kept)
    assert max(counts) == 4
    assert is_whole(world, second, tmp_path / "got", kept)


def test_a_damaged_pack_is_left_as_it_is(world: World, tmp_path: Path) -> None:
    kept = {"kept": noise(1, 50_000)}
    first = uploaded(world, tmp_path / "a", {**kept, "dead": noise(2, 200_000)})
    uploaded(world, tmp_path / "b", kept)
    delete.delete(world.context, [first], force=False, actor=None)
    world.clock.advance(LATER)
    for info in world.context.blobs.list("packs/"):
        index = read_index(world.context.blobs, info.key, info.size)
        for entry in index.chunks:
            if entry.raw_length == 50_000:
                damage(world, info.key, entry.offset)
    end = gathered(world)
    assert ("half-dead" in end["why"], end["written"], end["damaged"]) == (False, 0, 1)


@pytest.mark.parametrize("lives", [True, False])
def test_a_disk_that_fails_in_a_pack_ends_no_collection(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lives: bool
) -> None:
    """What is dead there is not needed; where what lives cannot be read, the rest is collected all the same."""
    kept = {"kept": noise(1, 50_000)}
    first = uploaded(world, tmp_path / "a", {**kept, "dead": noise(2, 200_000)})
    second = uploaded(world, tmp_path / "b", kept)
    gone = uploaded(world, tmp_path / "c", {"gone": noise(3)})
    delete.delete(world.context, [first, gone], force=False, actor=None)
    world.clock.advance(LATER)
    [row] = [row for row in world.rows(chunks) if row.raw_length == (50_000 if lives else 200_000)]
    plain, bad = world.context.blobs.get, row.offset + 20_000

    def get(key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        data = plain(key, offset=offset, length=length)
        if key == pack_key(bytes(row.pack_id)) and offset <= bad < offset + len(data):
            raise OSError(errno.EIO, "Input/output error")
        return data

    monkeypatch.setattr(world.context.blobs, "get", get)
    end = gathered(world)
    assert end["damaged"] == lives
    assert ("unreferenced" in end["why"], "half-dead" in end["why"]) == (True, not lives)
    world.clock.advance(world.settings.gc_condemned)
    assert keep_house(world.context) == 1 + (not lives)
    if not lives:
        assert is_whole(world, second, tmp_path / "got", kept)


def damage(world: World, key: str, offset: int) -> None:
    path = world.settings.home / "server" / "store" / key
    path.chmod(0o600)
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
