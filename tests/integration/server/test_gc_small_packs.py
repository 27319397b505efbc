"""Small packs, as live snapshots leave them, are put together: as safely as what is left of others is packed anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from dstack.server.loops.upkeep import keep_house
from dstack.server.services import compaction
from dstack.server.services.catalog import store_of
from dstack.snapshots import writer
from dstack.snapshots.capture import save
from dstack.snapshots.packs import read_index
from tests.support.garbage import LATER, foreseen, gathered, is_whole, noise, stored, uploaded
from tests.support.world import World

MANY = 10


@pytest.fixture(autouse=True)
def _few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "MANY", MANY)


def saved_often(world: World, folder: Path, times: int, size: int = 3000) -> dict[str, dict[str, bytes]]:
    """Each time a file more: what is in each run. A save leaves a pack."""
    folder.mkdir()
    files: dict[str, bytes] = {}
    found: dict[str, dict[str, bytes]] = {}
    for number in range(times):
        files = {**files, f"file-{number}": noise(number, size)}
        found[uploaded(world, folder, files)] = files
    return found


def count(world: World) -> int:
    return sum(1 for _ in world.context.blobs.list("packs/"))


def deleted(world: World) -> None:
    """What was condemned goes."""
    world.clock.advance(world.settings.gc_condemned)
    keep_house(world.context)


def all_whole(world: World, tmp_path: Path, runs: dict[str, dict[str, bytes]]) -> bool:
    return all(is_whole(world, run, tmp_path / f"got-{run}", files) for run, files in runs.items())


def test_many_are_put_together_and_then_left_alone(world: World, tmp_path: Path) -> None:
    runs = saved_often(world, tmp_path / "a", MANY)
    assert count(world) == MANY
    before = stored(world)
    world.clock.advance(LATER)
    would = foreseen(world)
    end = gathered(world)
    assert end["why"] == would["why"]
    assert (end["why"]["small"]["packs"], end["written"] > MANY * 3000) == (MANY, True)
    deleted(world)
    assert (count(world), stored(world) < before) == (2, True)
    assert all_whole(world, tmp_path, runs)
    world.clock.advance(LATER)
    assert (gathered(world)["why"], count(world)) == ({}, 2)


def test_few_are_left_alone(world: World, tmp_path: Path) -> None:
    saved_often(world, tmp_path / "a", MANY - 1)
    world.clock.advance(LATER)
    assert (gathered(world)["why"], count(world)) == ({}, MANY - 1)


def test_few_that_fill_one_are_put_together(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PACK_TARGET", 9000), ("SMALL_PACK", 4000)):
        monkeypatch.setattr(writer, name, value)
    runs = saved_often(world, tmp_path / "a", 4)
    world.clock.advance(LATER)
    assert gathered(world)["why"]["small"]["packs"] == 4
    deleted(world)
    assert count(world) < 4
    assert all_whole(world, tmp_path, runs)
    world.clock.advance(LATER)
    assert gathered(world)["why"] == {}


def test_what_is_full_of_tiny_chunks_is_not_small(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("PACK_CHUNKS", 4), ("SMALL_CHUNKS", 3)):
        monkeypatch.setattr(writer, name, value)
    runs = saved_often(world, tmp_path / "a", 3 * MANY, size=100)
    world.clock.advance(LATER)
    assert gathered(world)["why"]["small"]["packs"] == 3 * MANY
    deleted(world)
    blobs = world.context.blobs
    counts = [len(read_index(blobs, info.key, info.size).chunks) for info in blobs.list("packs/")]
    assert counts.count(4) >= MANY
    world.clock.advance(LATER)
    assert gathered(world)["why"] == {}
    assert all_whole(world, tmp_path, runs)


def test_what_somebody_who_saves_was_told_of_stays_where_it_is(world: World, tmp_path: Path) -> None:
    runs = saved_often(world, tmp_path / "a", MANY)
    world.clock.advance(LATER)
    save(tmp_path / "a", store_of(world.context))
    before = {info.key for info in world.context.blobs.list("packs/")}
    would = foreseen(world)
    end = gathered(world)
    assert end["why"] == would["why"] == {}
    assert {info.key for info in world.context.blobs.list("packs/")} == before
    assert all_whole(world, tmp_path, runs)


def test_one_that_is_damaged_stays_and_is_told(world: World, tmp_path: Path) -> None:
    runs = saved_often(world, tmp_path / "a", MANY)
    world.clock.advance(LATER)
    [key, *_] = [
        info.key
        for info in world.context.blobs.list("packs/")
        if read_index(world.context.blobs, info.key, info.size).chunks[0].raw_length == 3000
    ]
    path = world.settings.home / "server" / "store" / key
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    end = gathered(world)
    assert (end["why"]["small"]["packs"], end["damaged"]) == (MANY - 1, 1)
    deleted(world)
    assert path.exists()
    content[100] ^= 1
    path.write_bytes(content)
    assert all_whole(world, tmp_path, runs)
