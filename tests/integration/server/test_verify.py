"""Checking and healing a store, on both databases: damage is named with the runs it touches, and saving heals it."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, insert, update

from dstack.domain import faults
from dstack.domain.ports import SECOND, SystemClock
from dstack.server.db.engine import declare_write
from dstack.server.db.tables import artifacts, chunks, doubtful_objects, leases, packs
from dstack.server.db.tables import runs as runs_table
from dstack.server.services import delete as deleting
from dstack.server.services import uploads
from dstack.server.services.catalog import store_of
from dstack.server.services.heal import Healer
from dstack.server.services.ledger import Scope
from dstack.server.services.named_leases import GC, UPKEEP, held
from dstack.server.services.repositories import RepositoryRef
from dstack.server.services.uploads import Upload, UploadedArtifact
from dstack.server.services.verify import Check, scope_of
from dstack.snapshots.capture import save
from dstack.snapshots.checking import located
from dstack.snapshots.chunking import digest
from dstack.snapshots.errors import DamagedStore
from dstack.snapshots.interfaces import pack_key
from dstack.snapshots.manifests import FileEntry, encode_directory
from dstack.snapshots.packs import FOOTER, PackBuilder, read_index
from dstack.snapshots.restore import restore
from dstack.snapshots.spread import Spread
from dstack.snapshots.statcache import FileCache
from tests.support.ports import FakeClock
from tests.support.trees import described
from tests.support.world import REPOSITORY, World

HURT = declare_write("test.hurt")

Frames = list[dict[str, Any]]


class Shop:
    """A world with runs whose artifacts can be damaged."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.context = world.context
        self.folder = folder
        self.blobs = world.context.blobs

    def tree(self, name: str, *, files: int = 3) -> Path:
        """A folder of small files, a larger one and a folder in it; the same for the same name."""
        rng = random.Random(name)
        root = self.folder / name
        (root / "deep" / "er").mkdir(parents=True)
        for number in range(files):
            (root / f"{number}").write_bytes(rng.randbytes(3000))
        (root / "deep" / "er" / "model").write_bytes(rng.randbytes(700_000))
        return root

    def upload(self, root: Path, path: str = "out", cache: FileCache | None = None) -> str:
        """A finished run with this folder; its name. With a cache, what did not change since is not read."""
        later = FakeClock(SystemClock().now() + 3600 * SECOND)  # else files that were made just now are read again
        saved = save(root, store_of(self.context), cache=cache, clock=later)
        artifact = UploadedArtifact(path, saved.manifest_id.hex(), saved.stored)
        return uploads.upload(self.context, Upload((artifact,), RepositoryRef(REPOSITORY, "digits")), None).name

    def check(self, run: str | None = None, *, quick: bool = False, repair: bool = False) -> Frames:
        scope = self.world.read(lambda tx: scope_of(tx, self.context, run, None, None))
        with Spread() as spread:
            check = Check(self.context, scope, spread, quick=quick)
            found = list(check.frames())
            if repair and check.damages:
                with held(self.context, GC, UPKEEP) as lease:
                    found += Healer(self.context, spread, lease).repair()
            return [*found, {"t": "end", **check.summary()}]

    def rebuild(self) -> Frames:
        with Spread() as spread, held(self.context, GC, UPKEEP) as lease:
            return list(Healer(self.context, spread, lease).rebuild())

    def pack_of(self, chunk_id: bytes) -> bytes:
        [row] = self.world.rows(chunks, chunk_id=chunk_id)
        return bytes(row.pack_id)

    def damage(self, chunk_id: bytes) -> bytes:
        """Flip a bit of a chunk where it lies; the id of the pack."""
        [row] = self.world.rows(chunks, chunk_id=chunk_id)
        self.rewrite(bytes(row.pack_id), lambda data: flipped(data, row.offset + row.stored_length // 2))
        return bytes(row.pack_id)

    def rewrite(self, pack_id: bytes, change: Callable[[bytes], bytes]) -> None:
        key = pack_key(pack_id)
        data = self.blobs.get(key)
        self.blobs.delete([key])
        self.blobs.put(key, change(data))

    def hurt(self, statement: Any, values: Any = None) -> None:
        self.context.database.write(HURT, lambda tx: tx.execute(statement, values))

    def manifest(self, run: str) -> bytes:
        return bytes.fromhex(self.world.run(run)["jobs"][0]["artifacts"][0]["manifest_id"])

    def restored(self, run: str, name: str) -> Path:
        """The run's artifact, put into a folder. Raises DamagedStore."""
        target = self.folder / name
        restore(store_of(self.context), self.manifest(run), target)
        return target

    def reads_as(self, run: str, root: Path) -> bool:
        target = self.restored(run, f"again-{len(list(self.folder.iterdir()))}")
        return described(target) == described(root)


@pytest.fixture
def shop(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setattr(world.context.blobs, "sync", lambda: None)  # no test here is about a power cut
    folder = tmp_path / "trees"
    folder.mkdir()
    return Shop(world, folder)


@pytest.fixture
def sqlite_shop(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """For what takes long and is about the store, whatever the database."""
    world = World(sqlite_url, tmp_path / "home")
    monkeypatch.setattr(world.context.blobs, "sync", lambda: None)
    folder = tmp_path / "trees"
    folder.mkdir()
    yield Shop(world, folder)
    world.close()


def of(frames: Frames, kind: str) -> Frames:
    return [frame for frame in frames if frame["t"] == kind]


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :]


def chunk_of(path: Path) -> bytes:
    """The id of a file's only chunk."""
    return digest(path.read_bytes())


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


def save_elsewhere(shop: Shop, root: Path) -> bytes:
    """A pack in the store with files of `root`, as a writer that was killed before it told the catalog leaves it."""
    builder = PackBuilder()
    for name in ("1", "0"):
        data = (root / name).read_bytes()
        builder.add(digest(data), data)
    sealed, index = builder.seal()
    shop.blobs.put(pack_key(index.pack_id), sealed)
    return index.pack_id


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


class Killed(BaseException):
    """The process ends here."""


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


def killed_at(shop: Shop, monkeypatch: pytest.MonkeyPatch, step: int, work: Callable[[], object] | None = None) -> bool:
    """Repair, and end before the step with this number: a write to the store, or one side of a commit."""
    left = step

    def count(*_: object) -> None:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1

    def counted(work: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*values: Any) -> Any:
            count()
            done = work(*values)
            count()
            return done

        return stepped

    with monkeypatch.context() as patched:
        patched.setattr(faults, "point", count)
        for name in ("put", "delete"):
            patched.setattr(shop.blobs, name, counted(getattr(shop.blobs, name)))
        try:
            work() if work is not None else shop.check(repair=True)
        except Killed:
            killed = True
        else:
            killed = False
    shop.hurt(delete(leases))  # the next server sees that who held it was killed
    return killed


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
    shop.blobs.delete([info.key for info in shop.blobs.list("")])


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
