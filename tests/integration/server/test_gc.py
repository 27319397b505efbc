"""Collecting garbage, on both databases: what goes, what stays and why, and what it says of it."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete as delete_rows

from dstack.server.db.engine import declare_write
from dstack.server.db.tables import artifacts, chunks, code_snapshots, packs, projects
from dstack.server.db.tables import runs as runs_table
from dstack.server.loops.upkeep import keep_house
from dstack.server.services import delete, runs, uploads
from dstack.server.services.catalog import catalog_of, store_of
from dstack.server.services.errors import BadRequest, Conflict
from dstack.server.services.gc import Wanted, collect
from dstack.server.services.repositories import RepositoryRef
from dstack.server.services.uploads import Upload, UploadedArtifact
from dstack.snapshots import writer
from dstack.snapshots.capture import save
from dstack.snapshots.interfaces import PackIndex, pack_key
from dstack.snapshots.packs import PackBuilder, read_index
from dstack.snapshots.restore import restore
from tests.integration.server.test_locks import waits
from tests.support.world import REPOSITORY, World

FORGET = declare_write("test-gc-forget")
DAY = 86400.0
LATER = 3 * DAY
JOB = """
workflows:
  - {name: train, provider: bash, commands: ["true"], artifacts: [out], deps: ["DEP"]}
"""


def uploaded(world: World, folder: Path, files: dict[str, bytes], **more: Any) -> str:
    """The name of a run that was made of these files."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    found = save(folder, store_of(world.context))
    artifact = UploadedArtifact("out", found.manifest_id.hex(), found.stored)
    return uploads.upload(world.context, Upload((artifact,), RepositoryRef(REPOSITORY, "digits"), **more), None).name


def noise(seed: int, size: int = 100_000) -> bytes:
    return random.Random(seed).randbytes(size)


def gathered(world: World, **wanted: Any) -> dict[str, Any]:
    """The end of a collection that frees."""
    frames = list(collect(world.context, Wanted(dry_run=False, **wanted)))
    assert frames[-1]["t"] == "end", frames[-1]
    return frames[-1]


def foreseen(world: World, **wanted: Any) -> dict[str, Any]:
    return list(collect(world.context, Wanted(dry_run=True, **wanted)))[-1]


def stored(world: World) -> int:
    """Bytes in the store."""
    return sum(info.size for info in world.context.blobs.list("packs/"))


def is_whole(world: World, run: str, target: Path, files: dict[str, bytes]) -> bool:
    [artifact] = world.run(run)["jobs"][0]["artifacts"]
    restore(store_of(world.context), bytes.fromhex(artifact["manifest_id"]), target)
    return {path.name: path.read_bytes() for path in target.iterdir()} == files


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
    from dstack.server.services import removal

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


def test_inputs_of_open_runs_stay_though_their_run_has_gone(world: World, tmp_path: Path) -> None:
    uploaded(world, tmp_path / "up", {"file": noise(1)}, workflow="prepare", tags=("v1",))
    world.runner()
    world.submit(JOB.replace("DEP", "prepare:v1"), "train")
    world.context.database.write(FORGET, lambda tx: tx.execute(delete_rows(artifacts)))
    world.clock.advance(LATER)
    assert gathered(world)["chunks"] == 0


def test_inputs_that_go_while_a_run_is_planned_are_named(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = uploaded(world, tmp_path / "up", {"file": noise(1)}, workflow="prepare")
    plain = runs._plan  # pyright: ignore[reportPrivateUsage] - the moment between planning and storing

    def plan(*given: Any) -> Any:
        planned = plain(*given)
        delete.delete(world.context, [source], force=False, actor=None)
        world.clock.advance(LATER)
        assert gathered(world)["chunks"] == 3
        return planned

    monkeypatch.setattr(runs, "_plan", plan)
    with pytest.raises(Conflict, match=f"`out`, an input of `train`, was saved by run {source}, and is not in the"):
        world.submit(JOB.replace("DEP", "prepare"), "train")
    assert world.rows(runs_table) == []


def test_inputs_of_a_run_that_was_just_stored_stay_though_marked_before(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their run is deleted between planning and storing, and garbage is collected around that."""
    source = uploaded(world, tmp_path / "up", {"file": noise(1)}, workflow="prepare")
    world.clock.advance(LATER)
    collection: list[Any] = []
    plain = runs._plan  # pyright: ignore[reportPrivateUsage]

    def plan(*given: Any) -> Any:
        planned = plain(*given)
        delete.delete(world.context, [source], force=False, actor=None)
        frames = collect(world.context, Wanted(dry_run=False))
        # Marked, and not swept yet.
        for frame in frames:
            if frame.get("what") == "taking out what nothing refers to":
                break
        collection.append(frames)
        return planned

    monkeypatch.setattr(runs, "_plan", plan)
    world.submit(JOB.replace("DEP", "prepare"), "train")
    assert (list(collection[0])[-1]["chunks"], len(world.rows(chunks))) == (0, 3)


def test_code_stays_with_its_run_and_for_a_while_without(world: World, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "x.py").write_bytes(noise(1))
    found = save(tmp_path / "code", store_of(world.context))
    from dstack.server.services.runs import CodeRef

    code = CodeRef(found.manifest_id.hex(), found.content_id.hex(), 1, 1)
    name = world.submit(JOB.replace(', deps: ["DEP"]', ""), "train", code=code)
    world.clock.advance(LATER)
    assert gathered(world)["chunks"] == 0
    world.stop(name)
    delete.delete(world.context, [name], force=False, actor=None)
    world.clock.advance(LATER)
    assert gathered(world)["chunks"] == 3
    assert len(world.rows(code_snapshots)) == 1


def test_a_submission_whose_code_went_is_told_to_ship_it_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the transaction that stores the run: before, it was still there."""
    from dstack.server.services import artifacts as artifact_service
    from dstack.server.services.errors import CodeMissing
    from dstack.server.services.runs import CodeRef

    monkeypatch.setattr(artifact_service, "require_code", lambda *_: None)
    monkeypatch.setattr(artifact_service, "has_path", lambda *_: True)
    with pytest.raises(CodeMissing, match="is not in the store"):
        world.submit(JOB.replace(', deps: ["DEP"]', ""), "train", code=CodeRef("ab" * 32, "cd" * 32))


def test_a_runner_hears_that_what_it_saved_is_not_there(world: World) -> None:
    runner = world.runner()
    name = world.submit(JOB.replace(', deps: ["DEP"]', ""), "train")
    world.place()
    runner.take()
    runner.exit("train")
    runner.stores = False
    answer = runner.report(runner.saved("train"))
    assert (answer.outcome, answer.save_again, world.states(name)) == ("rejected", True, {"train": "saving"})
    assert "what was saved of out is not in the store" in answer.detail
    runner.stores = True
    assert runner.save("train").outcome == "applied"
    assert world.states(name) == {"train": "done"}
