"""Saves beside a repair, at every step of both: a snapshot that names what the repair takes out is refused, and what is
not doubted has all that it names."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete

from dstack.sdk.blobs import Buffer
from dstack.server.db.tables import artifacts, chunks, doubtful_objects, packs, runs
from dstack.server.services import uploads
from dstack.server.services.catalog import catalog_of, store_of
from dstack.server.services.errors import SnapshotMissing
from dstack.server.services.repositories import RepositoryRef
from dstack.server.services.taking_out import TakingOut
from dstack.server.services.uploads import Upload, UploadedArtifact
from dstack.snapshots.capture import save
from dstack.snapshots.checking import begins_like_an_object, names_in
from dstack.snapshots.errors import StoreRefused
from dstack.snapshots.interfaces import ChunkLocation, PackIndex
from dstack.snapshots.statcache import FileCache
from dstack.snapshots.store import SnapshotStore
from tests.support.shop import Shop, chunk_of, of
from tests.support.stores import later
from tests.support.world import REPOSITORY


class Repair:
    """A check that repairs, in a thread of its own: it goes as far as it is told, from one write to the next."""

    def __init__(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        self.frames: list[dict[str, Any]] = []
        self.failed: BaseException | None = None
        self.is_over = False
        self._shop = shop
        self._may, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run)
        # Blobs are deleted within a write, beside which nobody else writes.
        for target, name in ((shop.context.database, "write"), (shop.blobs, "put")):
            monkeypatch.setattr(target, name, self._stepped(getattr(target, name)))

    def go(self, steps: int) -> int:
        """How many of them there were."""
        if not self._thread.is_alive() and not self.is_over:
            self._thread.start()
            self._done.acquire()
        for step in range(steps):
            if self.is_over:
                return step
            self._may.release()
            self._done.acquire()
        return steps

    def finish(self) -> None:
        while self.go(100) == 100:
            pass
        self._thread.join()
        if self.failed is not None:
            raise self.failed

    def _run(self) -> None:
        try:
            self.frames = self._shop.check(repair=True)
        except BaseException as error:  # noqa: BLE001 - the test raises it
            self.failed = error
        self.is_over = True
        self._done.release()

    def _stepped(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*values: Any) -> Any:
            if threading.current_thread() is self._thread:
                self._done.release()
                self._may.acquire()
            return work(*values)

        return stepped


class Between:
    """Catalog and blobs of one who saves: `turn` is called before each call."""

    def __init__(self, shop: Shop, turn: Callable[[], object]) -> None:
        self._catalog = catalog_of(shop.context)
        self._blobs = shop.blobs
        self._turn = turn

    def missing(self, chunk_ids: Sequence[bytes]) -> set[bytes]:
        self._turn()
        return self._catalog.missing(chunk_ids)

    def locate(self, chunk_ids: Sequence[bytes]) -> Mapping[bytes, ChunkLocation]:
        return self._catalog.locate(chunk_ids)

    def add(self, packs: Sequence[PackIndex]) -> None:
        self._turn()
        self._catalog.add(packs)

    def put(self, key: str, data: Buffer | Path) -> bool:
        self._turn()
        return self._blobs.put(key, data)

    def store(self) -> SnapshotStore:
        return SnapshotStore(self, self)  # type: ignore[arg-type]  # what it needs of both


class Saver:
    """One who saves a folder, each time with another file in it, and with a file and a folder that do not change."""

    def __init__(self, shop: Shop, name: str, *, remembers: bool) -> None:
        self.root = shop.folder / name
        self._shop = shop
        self._cache = FileCache() if remembers else None
        (self.root / "deep").mkdir(parents=True)
        for path in ("piece", "deep/piece", "deep/other"):
            (self.root / path).write_bytes(random.Random(f"{name} {path}").randbytes(2000))

    def save(self, text: str = "", turn: Callable[[], object] = lambda: None) -> str | None:
        """The name of the run that was made of it, None where it is to be saved again. With `text`, a file changes."""
        if text:
            (self.root / "new").write_text(text)
        saved = save(self.root, Between(self._shop, turn).store(), cache=self._cache, clock=later())
        turn()
        artifact = UploadedArtifact("out", saved.manifest_id.hex())
        try:
            wanted = Upload((artifact,), RepositoryRef(REPOSITORY, "digits"))
            run = uploads.upload(self._shop.context, wanted, None).name
        except SnapshotMissing:
            return None
        missing, _ = lacking(self._shop, saved.manifest_id)
        assert not missing, "a reference to what is not in the catalog"
        return run


def lacking(shop: Shop, root: bytes) -> tuple[set[bytes], set[bytes]]:
    """What a snapshot names and the catalog lacks, and its objects."""
    waiting, objects, pieces = [root], set[bytes](), set[bytes]()
    while waiting:
        object_id = waiting.pop()
        objects.add(object_id)
        if catalog_of(shop.context).locate([object_id]):
            names = names_in(object_id, store_of(shop.context).read_chunk(object_id))
            waiting += (*names.objects, *names.pages)
            pieces.update(chunk.chunk_id for chunk in names.chunks())
    named = objects | pieces
    return named - set(catalog_of(shop.context).locate(sorted(named))), objects


def check_promises(shop: Shop) -> None:
    """What is in the catalog and not doubted has all that it names, and its objects are not doubted either."""
    known = [bytes(row.chunk_id) for row in shop.world.rows(chunks)]
    doubted = {bytes(row.object_id) for row in shop.world.rows(doubtful_objects)}
    for chunk_id, data in store_of(shop.context).read_chunks(known):
        if chunk_id not in doubted and begins_like_an_object(data):
            names = names_in(chunk_id, data)
            assert doubted.isdisjoint((*names.objects, *names.pages)), "not doubted, and names what is"
            missing = {*names.objects, *names.pages, *(chunk.chunk_id for chunk in names.chunks())} - set(known)
            assert not missing, "not doubted, and names what is not there"


def check_end(shop: Shop, saver: Saver, run: str | None, repair: Repair) -> None:
    """After a repair: who was refused saves again, and everything is there then."""
    check_promises(shop)
    if run is not None and lacking(shop, shop.manifest(run))[0]:
        assert run in [frame["run"] for frame in of(repair.frames, "touched")], "its reference came first: it is told"
    again = saver.save()
    assert again is not None, "all of it was saved again"
    check_promises(shop)
    assert shop.reads_as(again, saver.root)
    assert run is None or shop.reads_as(run, saver.root)


def empty(shop: Shop) -> None:
    """What was saved before is only in the way."""
    for table in (artifacts, runs, chunks, packs, doubtful_objects):
        shop.hurt(delete(table))
    shop.blobs.delete([info.key for info in shop.blobs.list("packs/")])


@pytest.mark.parametrize(("hurt", "remembers"), [("piece", False), ("deep/piece", True)])
def test_a_save_beside_a_repair_at_any_step_of_both(
    sqlite_shop: Shop, monkeypatch: pytest.MonkeyPatch, hurt: str, remembers: bool
) -> None:
    shop, refused, tried, call = sqlite_shop, 0, 0, 0
    is_split = True
    while is_split:
        step, was_over = 0, False
        while not was_over:
            empty(shop)
            saver = Saver(shop, f"{call}-{step}", remembers=remembers)
            saver.save("first")
            shop.damage(chunk_of(saver.root / hurt))
            with monkeypatch.context() as patched:
                repair = Repair(shop, patched)
                counts, is_split = [0], False

                def turn(
                    counts: list[int] = counts, repair: Repair = repair, call: int = call, step: int = step
                ) -> None:
                    nonlocal is_split, was_over
                    if counts[0] == call:
                        is_split, was_over = True, repair.go(step) < step
                    counts[0] += 1

                run = saver.save("second", turn)
                repair.finish()
            if not is_split:
                break
            check_end(shop, saver, run, repair)
            tried += 1
            refused += run is None
            step += 1
        call += 1
    assert call > 4, "a save asks, puts and records, twice, and makes a reference"
    assert tried > 40
    assert 0 < refused < tried


def test_the_very_same_damaged_pack_that_is_recorded_again_at_any_step(
    sqlite_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There was no room to put it aside: what it held was taken out, and whoever saves that finds it stored."""
    shop, put, steps, at, was_over, recorded = sqlite_shop, sqlite_shop.blobs.put, TakingOut.steps, 0, False, 0

    def full(key: str, data: Buffer | Path) -> bool:
        if key.startswith("quarantine/"):
            raise StoreRefused("disk full")
        return put(key, data)

    while not was_over:
        empty(shop)
        root = shop.folder / f"tree-{at}"
        root.mkdir()
        (root / "piece").write_bytes(random.Random(at).randbytes(2000))
        hurt = chunk_of(root / "piece")
        shop.upload(root)
        pack_id = shop.damage(hurt)
        with monkeypatch.context() as patched:
            patched.setattr(shop.blobs, "put", full)
            assert of(shop.check(repair=True), "left")
        assert not shop.world.rows(chunks, chunk_id=hurt)
        was_over = True

        def disturbed(self: TakingOut, at: int = at, root: Path = root) -> Iterator[Any]:
            nonlocal was_over
            for number, frame in enumerate(steps(self)):
                if number == at:
                    save(root, store_of(shop.context), clock=later())
                    was_over = False
                yield frame

        with monkeypatch.context() as patched:
            patched.setattr(TakingOut, "steps", disturbed)
            frames = shop.check(repair=True)
        assert of(frames, "aside")
        check_promises(shop)
        recorded += not was_over
        run = shop.upload(root)
        assert shop.reads_as(run, root), f"recorded again at step {at}"
        assert shop.pack_of(hurt) == pack_id, "it has its name again"
        at += 1
    assert recorded > 2


@pytest.mark.parametrize("seed", range(2))
def test_several_saves_beside_a_repair_in_any_order(shop: Shop, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    rng = random.Random(seed)
    for number in range(3):
        empty(shop)
        savers = [Saver(shop, f"{number}-{each}", remembers=rng.random() < 0.5) for each in range(3)]
        for saver in savers:
            (saver.root / "deep" / "piece").write_text(f"the same in all of them {number}")
            saver.save("first")
        shop.damage(chunk_of(savers[0].root / "deep" / "piece"))
        with monkeypatch.context() as patched:
            repair = Repair(shop, patched)
            runs = list(interleaved(savers, repair, rng))
            repair.finish()
        assert of(repair.frames, "repaired")
        for saver, run in zip(savers, runs, strict=True):
            check_end(shop, saver, run, repair)


def interleaved(savers: Sequence[Saver], repair: Repair, rng: random.Random) -> Iterator[str | None]:
    """Save each, with some of the others between its calls and some steps of the repair."""
    found: dict[int, str | None] = {}

    def turn(number: int) -> None:
        repair.go(rng.choice([0, 0, 1, 3]))
        if number + 1 < len(savers) and number + 1 not in found and rng.random() < 0.4:
            begin(number + 1)

    def begin(number: int) -> None:
        found[number] = None  # begun
        found[number] = savers[number].save("second", lambda: turn(number))

    for number in range(len(savers)):
        if number not in found:
            begin(number)
        yield found[number]
