"""What a power cut has taken of the newest packs is found after the boot, and saved again by whoever has it (F27)."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest
from sqlalchemy import insert

from dstack.server.db.engine import declare_write
from dstack.server.db.tables import chunks, doubtful_objects, packs
from dstack.server.services.catalog import store_of
from dstack.server.services.errors import Conflict
from dstack.server.services.named_leases import GC, held
from dstack.server.services.power_cut import LOOK, WINDOW, BootCheck
from dstack.snapshots.capture import save
from dstack.snapshots.errors import StoreRefused
from dstack.snapshots.restore import restore
from dstack.snapshots.statcache import FileCache
from tests.support.trees import described
from tests.support.world import World

CONDEMN = declare_write("test.condemn")


class Machine:
    """Boots, and starts the server."""

    def __init__(self, world: World, boot_id: Path) -> None:
        self._world = world
        self._boot_id = boot_id

    def start(self, boot: str) -> BootCheck:
        """The server starts in that boot, and has not looked yet."""
        self._boot_id.write_text(f"{boot}\n")
        return BootCheck(self._world.context, self._boot_id)

    def __call__(self, boot: str) -> int:
        """Starts in that boot, does all that is to be done, and is killed; how many packs were damaged."""
        check = self.start(boot)
        found = check.look()
        return check.finish() if found else found


@pytest.fixture
def boot(world: World, tmp_path: Path) -> Machine:
    machine = Machine(world, tmp_path / "boot_id")
    machine("first")
    return machine


@pytest.fixture
def read(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the blobs that are read."""
    found: list[str] = []
    get = world.context.blobs.get

    def noted(key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        found.append(key)
        return get(key, offset=offset, length=length)

    monkeypatch.setattr(world.context.blobs, "get", noted)
    return found


def tree(folder: Path, content: bytes) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "file").write_bytes(content * 300_000)
    (folder / "other").write_bytes(content * 10)
    return folder


def lose(world: World, keys: set[str], how: str) -> None:
    for key in keys:
        data = world.context.blobs.get(key)
        world.context.blobs.delete([key])
        if how != "gone":
            world.context.blobs.put(key, {"empty": b"", "zeros": bytes(len(data)), "half": data[: len(data) // 2]}[how])


@pytest.mark.parametrize("how", ["gone", "empty", "zeros", "half"])
def test_what_was_lost_is_stored_again(world: World, boot: Machine, tmp_path: Path, how: str) -> None:
    store = store_of(world.context)
    before = save(tree(tmp_path / "before", b"a"), store)
    kept = {info.key for info in world.context.blobs.list("packs/")}
    world.clock.advance(2 * WINDOW)
    lost = save(tree(tmp_path / "lost", b"b"), store, live=True)
    newer = {info.key for info in world.context.blobs.list("packs/")} - kept
    lose(world, newer, how)
    assert save(tmp_path / "lost", store, live=True).stored == 0, "the catalog believes that it is there"
    assert boot("first") == 0, "the server was started again, the machine was not"
    assert boot("second") == len(newer)
    assert boot("second") == 0
    again = save(tmp_path / "lost", store)
    assert again.manifest_id == lost.manifest_id
    for saved, name in ((before, "before"), (again, "lost")):
        restore(store, saved.manifest_id, tmp_path / "out" / name)
        assert described(tmp_path / "out" / name) == described(tmp_path / name)


def test_what_the_disk_cannot_read_is_lost_as_well(
    world: World, boot: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(world.context)
    lost = save(tree(tmp_path / "lost", b"b"), store, live=True)
    [key, *_] = (info.key for info in world.context.blobs.list("packs/"))
    get = world.context.blobs.get

    def failing(name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        if name == key:
            raise OSError(errno.EIO, "Input/output error")
        return get(name, offset=offset, length=length)

    monkeypatch.setattr(world.context.blobs, "get", failing)
    assert boot("second") == 1
    assert boot("second") == 0, "it was noted"
    monkeypatch.setattr(world.context.blobs, "get", get)
    assert save(tmp_path / "lost", store).manifest_id == lost.manifest_id
    restore(store, lost.manifest_id, tmp_path / "out")
    assert described(tmp_path / "out") == described(tmp_path / "lost")


def test_who_saves_before_the_store_is_repaired_stores_all_of_it(
    world: World, boot: Machine, tmp_path: Path, read: list[str]
) -> None:
    """What names the lost is told to be missing as soon as anybody is served; nothing but the newest was read then."""
    store = store_of(world.context)
    save(tree(tmp_path / "old", b"a"), store)
    old = {info.key for info in world.context.blobs.list("packs/")}
    world.clock.advance(WINDOW + 1)
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "file").write_bytes(b"b" * 300_000)
    cache = FileCache()
    save(tmp_path / "part", store)
    newest = {info.key for info in world.context.blobs.list("packs/")}
    lost = save(tree(tmp_path / "lost", b"b"), store, cache=cache, live=True)
    lose(world, newest - old, "zeros")
    read.clear()
    check = boot.start("second")
    assert check.look() == len(newest - old)
    assert not old & set(read)
    save(tmp_path / "part", store)  # the very same pack
    assert newest <= {info.key for info in world.context.blobs.list("packs/")}
    assert save(tmp_path / "lost", store, cache=cache).manifest_id == lost.manifest_id
    restore(store, lost.manifest_id, tmp_path / "out")
    assert check.finish() == len(newest - old)
    assert not world.rows(doubtful_objects), "all is there, and it was looked at"
    restore(store, lost.manifest_id, tmp_path / "again")
    assert described(tmp_path / "again") == described(tmp_path / "out") == described(tmp_path / "lost")


def test_after_an_end_in_order_nothing_is_read(
    world: World, boot: Machine, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(world.context.blobs, "sync", lambda: synced.append(1))
    server = boot.start("first")
    server.look()
    save(tree(tmp_path / "one", b"a"), store_of(world.context), live=True)
    server.end()
    assert synced
    read.clear()
    assert boot("second") == 0
    assert not read
    save(tree(tmp_path / "two", b"b"), store_of(world.context), live=True)
    read.clear()
    assert boot("third") == 0
    assert read, "the server of the second boot was killed"


def test_an_end_whose_data_the_disk_did_not_take_is_none_in_order(
    world: World, boot: Machine, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise StoreRefused("disk full")

    monkeypatch.setattr(world.context.blobs, "sync", refuse)
    server = boot.start("first")
    server.look()
    save(tree(tmp_path / "one", b"a"), store_of(world.context), live=True)
    server.end()
    read.clear()
    assert boot("second") == 0
    assert read


def test_a_slow_disk_does_not_keep_the_server_from_being_served(
    world: World, boot: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(world.context)
    first = save(tree(tmp_path / "first", b"a"), store, live=True)
    oldest = {info.key for info in world.context.blobs.list("packs/")}
    world.clock.advance(1)
    save(tree(tmp_path / "newest", b"b"), store, live=True)
    lose(world, oldest, "gone")
    get, slow = world.context.blobs.get, [True]

    def dragging(key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        assert key not in oldest or not slow[0]
        world.clock.advance(LOOK)
        return get(key, offset=offset, length=length)

    monkeypatch.setattr(world.context.blobs, "get", dragging)
    server = boot.start("second")
    assert server.look() == 0, "the newest is right; nobody has read the others"
    server.end()
    slow[0] = False
    again = boot.start("third")
    assert again.look() == 0, "an end before all was looked at is none in order"
    assert again.finish() == len(oldest)
    assert save(tmp_path / "first", store).manifest_id == first.manifest_id
    restore(store, first.manifest_id, tmp_path / "out")
    assert described(tmp_path / "out") == described(tmp_path / "first")


def test_what_is_left_is_looked_at_beside_the_first_requests(world: World, boot: Machine, tmp_path: Path) -> None:
    save(tree(tmp_path / "lost", b"a"), store_of(world.context), live=True)
    lose(world, {info.key for info in world.context.blobs.list("packs/")}, "zeros")
    server = boot.start("second")
    with held(world.context, GC, "collecting"):
        assert server.look()
        assert world.rows(doubtful_objects) or not world.rows(chunks)
        with pytest.raises(Conflict):
            server.finish()
    server.begin()
    [thread] = [thread for thread in threading.enumerate() if thread.name == "dstack-boot-check"]
    thread.join(60)
    assert (world.context.settings.home / "server" / "boot").read_text() == "second"


def test_packs_that_go_soon_are_not_missed(world: World, boot: Machine) -> None:
    """Their blobs may be gone already."""
    row = {"project_id": world.context.project_id, "pack_id": bytes(32), "size": 9, "created_at": 1, "condemned_at": 2}
    world.context.database.write(CONDEMN, lambda tx: tx.execute(insert(packs), row))
    assert boot("second") == 0


def test_only_the_newest_are_read(world: World, boot: Machine, tmp_path: Path, read: list[str]) -> None:
    """A store of years is not read whole after each boot."""
    store = store_of(world.context)
    save(tree(tmp_path / "old", b"a"), store)
    old = {info.key for info in world.context.blobs.list("packs/")}
    world.clock.advance(WINDOW + 1)
    save(tree(tmp_path / "new", b"b"), store)
    read.clear()
    assert boot("second") == 0
    assert read
    assert not old & set(read)


def test_a_store_with_nothing_in_it(boot: Machine) -> None:
    assert boot("second") == 0


def test_what_is_left_is_not_forgotten_for_what_comes_after(world: World, boot: Machine, tmp_path: Path) -> None:
    """The server is killed before it has looked at all; what is saved by then is newer by more than is looked at."""
    store = store_of(world.context)
    lost = save(tree(tmp_path / "lost", b"a"), store, live=True)
    packs = {info.key for info in world.context.blobs.list("packs/")}
    lose(world, packs, "zeros")
    with held(world.context, GC, "collecting"):
        assert boot.start("second").look() == len(packs), "the repair of the store waits"
    world.clock.advance(2 * WINDOW)
    save(tree(tmp_path / "later", b"b"), store)
    server = boot.start("second")
    assert server.look() == 0
    server.finish()
    doubted = {bytes(row.object_id) for row in world.rows(doubtful_objects)}
    assert doubted.isdisjoint(bytes(row.chunk_id) for row in world.rows(chunks)), "all saved with it was looked at"
    assert (world.context.settings.home / "server" / "boot").read_text() == "second"
    assert save(tmp_path / "lost", store).manifest_id == lost.manifest_id
    restore(store, lost.manifest_id, tmp_path / "out")
    assert described(tmp_path / "out") == described(tmp_path / "lost")


def test_packs_nobody_has_read_are_read_by_the_next_server(
    world: World, boot: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(world.context)
    save(tree(tmp_path / "first", b"a"), store, live=True)
    oldest = {info.key for info in world.context.blobs.list("packs/")}
    world.clock.advance(1)
    save(tree(tmp_path / "second", b"b"), store, live=True)
    lose(world, oldest, "half")
    get = world.context.blobs.get

    def dragging(key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        world.clock.advance(LOOK)
        return get(key, offset=offset, length=length)

    with monkeypatch.context() as slow:
        slow.setattr(world.context.blobs, "get", dragging)
        assert boot.start("second").look() == 0, "it has read the newest, and is killed"
    world.clock.advance(2 * WINDOW)
    save(tree(tmp_path / "later", b"c"), store)
    assert boot("second") == len(oldest), "of the same boot"


def test_a_note_that_is_lost_has_more_looked_at(world: World, boot: Machine, tmp_path: Path) -> None:
    """A server that starts waits for no disk to say that it does; what was noted before may come back."""
    save(tree(tmp_path / "one", b"a"), store_of(world.context), live=True)
    server = boot.start("first")
    server.look()
    server.end()
    note = world.context.settings.home / "server" / "boot"
    before = note.read_text()
    assert "in-order" in before
    assert boot("second") == 0
    kept = {info.key for info in world.context.blobs.list("packs/")}
    world.clock.advance(1)
    save(tree(tmp_path / "two", b"b"), store_of(world.context), live=True)
    newer = {info.key for info in world.context.blobs.list("packs/")} - kept
    lose(world, newer, "zeros")
    note.write_text(before)
    assert boot("third") == len(newer)


def test_a_disk_that_takes_no_note_keeps_no_server_from_starting_or_ending(
    world: World, boot: Machine, tmp_path: Path, read: list[str]
) -> None:
    save(tree(tmp_path / "one", b"a"), store_of(world.context), live=True)
    note = world.context.settings.home / "server" / "boot"
    note.unlink()
    note.mkdir()
    server = boot.start("second")
    assert server.look() == 0
    server.end()
    note.rmdir()
    read.clear()
    assert boot("third") == 0
    assert read, "nothing is known of the end, so the newest are read"


@pytest.mark.parametrize("text", ["", "a b", "a in-order x", "a in-order 1 2", "a never 1", "\xff"])
def test_a_note_that_says_nothing_has_the_newest_looked_at(
    world: World, boot: Machine, tmp_path: Path, read: list[str], text: str
) -> None:
    save(tree(tmp_path / "one", b"a"), store_of(world.context), live=True)
    (world.context.settings.home / "server" / "boot").write_text(text, encoding="latin-1")
    read.clear()
    assert boot("second") == 0
    assert read
