"""Collecting garbage, on both databases: what goes, what stays for how long, and what is said of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete as delete_rows

from dstack.server.db.tables import chunks, packs, projects
from dstack.server.loops.upkeep import keep_house
from dstack.server.services import delete, removal
from dstack.server.services.catalog import catalog_of, store_of
from dstack.server.services.errors import BadRequest, Conflict
from dstack.server.services.gc import Wanted, collect
from dstack.snapshots.interfaces import PackIndex, pack_key
from dstack.snapshots.packs import PackBuilder, read_index
from tests.integration.server.test_locks import waits
from tests.support.garbage import DAY, FORGET, LATER, foreseen, gathered, is_whole, noise, stored, uploaded
from tests.support.world import World


def test_a_deleted_run_gives_back_what_only_it_had(world: World, tmp_path: Path) -> None:
    shared, own = noise(1), noise(2, 300_000)
    first = uploaded(world, tmp_path / "a", {"shared": shared, "own": own})
    files = {"shared": shared, "other": noise(3)}
    kept = uploaded(world, tmp_path / "b", files)
    before = stored(world)
    world.clock.advance(LATER)
    assert gathered(world)["why"] == {}
    delete.delete(world.context, [first], force=False, actor=None)
    end = gathered(world)
    assert (end["why"]["half-dead"]["packs"], end["chunks"]) == (1, 3)
    world.clock.advance(world.settings.gc_condemned)
    assert keep_house(world.context) == end["waiting"]["packs"] == 1
    assert before - stored(world) > 299_000
    assert is_whole(world, kept, tmp_path / "got", files)


def test_packs_wait_until_no_download_can_be_reading_them(world: World, tmp_path: Path) -> None:
    run = uploaded(world, tmp_path / "a", {"file": noise(1)})
    before = stored(world)
    delete.delete(world.context, [run], force=False, actor=None)
    world.clock.advance(LATER)
    would = foreseen(world)
    assert (would["why"], stored(world)) == ({"unreferenced": {"packs": 1, "bytes": before}}, before)
    end = gathered(world)
    assert end["why"] == would["why"]
    assert (end["chunks"], end["waiting"], end["deleted"]["packs"]) == (3, {"packs": 1, "bytes": before}, 0)
    assert (stored(world), world.rows(chunks)) == (before, [])
    assert keep_house(world.context) == 0
    world.clock.advance(world.settings.gc_condemned)
    assert keep_house(world.context) == 1
    assert (stored(world), world.rows(packs)) == (0, [])


def test_what_was_saved_or_asked_about_lately_stays(world: World, tmp_path: Path) -> None:
    run = uploaded(world, tmp_path / "a", {"file": noise(1)})
    delete.delete(world.context, [run], force=False, actor=None)
    end = gathered(world)
    assert (end["chunks"], end["held"] > 100_000, end["why"]) == (0, True, {})
    world.clock.advance(LATER)
    [chunk, *_] = world.rows(chunks)
    assert catalog_of(world.context).missing([bytes(chunk.chunk_id)]) == set()
    assert gathered(world)["chunks"] == 0
    world.clock.advance(LATER)
    assert gathered(world)["chunks"] == 3
    assert catalog_of(world.context).missing([bytes(chunk.chunk_id)]) == {bytes(chunk.chunk_id)}


def test_a_shorter_grace_frees_more_and_sooner(world: World, tmp_path: Path) -> None:
    run = uploaded(world, tmp_path / "a", {"file": noise(1)})
    delete.delete(world.context, [run], force=False, actor=None)
    world.clock.advance(2 * world.settings.gc_asked_to)
    assert gathered(world)["chunks"] == 0
    end = gathered(world, grace=0.0)
    assert (end["chunks"], end["deleted"]["packs"], stored(world)) == (3, 1, 0)


def test_what_a_save_that_was_cut_off_has_left_goes(world: World) -> None:
    builder = PackBuilder()
    builder.add(b"c" * 32, b"content")
    data, pack = builder.seal()
    key = pack_key(pack.pack_id)
    world.context.blobs.put(key, data)
    path = world.settings.home / "server" / "store" / key
    put_at(path, world.clock.now())
    assert gathered(world)["why"] == {}
    world.clock.advance(LATER)
    assert foreseen(world)["why"] == {"unfinished": {"packs": 1, "bytes": pack.size}}
    end = gathered(world)
    assert (end["why"], end["deleted"]["packs"], stored(world)) == (
        {"unfinished": {"packs": 1, "bytes": pack.size}}, 1, 0,
    )  # fmt: skip


def put_at(path: Path, at: int) -> None:
    os.utime(path, ns=(at * 1000, at * 1000))


def test_one_that_is_put_again_and_recorded_meanwhile_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = PackBuilder()
    builder.add(b"c" * 32, b"content")
    data, pack = builder.seal()
    world.context.blobs.put(pack_key(pack.pack_id), data)
    put_at(world.settings.home / "server" / "store" / pack_key(pack.pack_id), world.clock.now())
    world.clock.advance(LATER)
    plain = removal.adopt

    def adopt(*given: Any) -> None:
        plain(*given)
        assert world.context.blobs.put(pack_key(pack.pack_id), data) is False
        catalog_of(world.context).add([pack])

    monkeypatch.setattr(removal, "adopt", adopt)
    assert gathered(world)["deleted"]["packs"] == 0
    assert stored(world) == pack.size


def test_a_pack_of_two_projects_goes_when_neither_needs_it(
    emptied_url: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one records it at the moment at which this one deletes its blob: it hears that it must upload it."""
    run = uploaded(world, tmp_path / "a", {"file": noise(1)})
    [info] = world.context.blobs.list("packs/")
    index = read_index(world.context.blobs, info.key, info.size)
    other = replace(world.context, project_id=UUID(int=7))
    row = {"project_id": other.project_id, "name": "other", "created_at": 0}
    world.context.database.write(FORGET, lambda tx: tx.execute(projects.insert(), row))
    catalog_of(other).add([index])
    delete.delete(world.context, [run], force=False, actor=None)
    assert gathered(world, grace=-DAY)["deleted"] == {"packs": 1, "bytes": 0}, "the other has it"
    assert store_of(other).blobs.stat(info.key) is not None
    heard: list[Exception] = []
    plain = world.context.blobs.delete

    def record() -> None:
        try:
            catalog_of(world.context).add([index])
        except BadRequest as error:
            heard.append(error)

    def remove(keys: Iterable[str]) -> None:
        recording = threading.Thread(target=record)
        recording.start()
        # With SQLite it waits in its own process, where nobody sees it.
        while emptied_url.startswith("postgresql") and recording.is_alive() and not waits(emptied_url):
            recording.join(0.01)
        plain(keys)
        others.append(recording)

    others: list[threading.Thread] = []
    monkeypatch.setattr(world.context.blobs, "delete", remove)
    gathered_there = list(collect(other, Wanted(dry_run=False, grace=-DAY)))[-1]
    [recording] = others
    recording.join(30)
    assert (gathered_there["deleted"]["packs"], len(heard), world.rows(packs)) == (1, 1, [])


def test_a_pack_that_went_before_it_was_recorded_is_refused(world: World) -> None:
    pack = PackIndex(b"p" * 32, 7, ())
    with pytest.raises(BadRequest, match="is not in the store whole"):
        catalog_of(world.context).add([pack])


def test_nothing_is_freed_while_it_is_not_known_what_is_needed(world: World, tmp_path: Path) -> None:
    hurt = uploaded(world, tmp_path / "a", {"file": noise(1)})
    gone = uploaded(world, tmp_path / "b", {"file": noise(2)})
    delete.delete(world.context, [gone], force=False, actor=None)
    [artifact] = world.run(hurt)["jobs"][0]["artifacts"]
    world.clock.advance(LATER)
    root = bytes.fromhex(artifact["manifest_id"])
    world.context.database.write(FORGET, lambda tx: tx.execute(delete_rows(chunks).where(chunks.c.chunk_id == root)))
    before = len(world.rows(chunks))
    frames = list(collect(world.context, Wanted(dry_run=False)))
    assert (frames[-1]["t"], [each["id"] for each in frames[-1]["objects"]]) == ("damaged", [root.hex()])
    assert len(world.rows(chunks)) == before
    assert gathered(world, despite_damage=True)["chunks"] == before


def test_one_at_a_time(world: World) -> None:
    first = collect(world.context, Wanted(dry_run=False))
    next(first)
    with pytest.raises(Conflict, match="collecting garbage or repairing the store is under way already"):
        next(collect(world.context, Wanted(dry_run=False)))
    assert list(collect(world.context, Wanted(dry_run=True)))[-1]["t"] == "end", "who only looks need not wait"
    assert list(first)[-1]["t"] == "end"
