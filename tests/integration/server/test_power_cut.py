"""What a power cut has taken of the newest packs is found after the boot, and saved again by whoever has it (F27)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dstack.server.services.catalog import store_of
from dstack.server.services.power_cut import WINDOW, check_after_boot
from dstack.snapshots.capture import save
from dstack.snapshots.restore import restore
from tests.support.trees import described
from tests.support.world import World


@pytest.fixture
def boot(world: World, tmp_path: Path) -> Callable[[str], int]:
    """Starts the server after a boot with that id; how many packs it finds damaged."""
    (tmp_path / "boot_id").write_text("first\n")
    check_after_boot(world.context, tmp_path / "boot_id")

    def start(boot_id: str) -> int:
        (tmp_path / "boot_id").write_text(f"{boot_id}\n")
        return check_after_boot(world.context, tmp_path / "boot_id")

    return start


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
def test_what_was_lost_is_stored_again(world: World, boot: Callable[[str], int], tmp_path: Path, how: str) -> None:
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


def test_only_the_newest_are_read(
    world: World, boot: Callable[[str], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store of years is not read whole after each boot."""
    store = store_of(world.context)
    save(tree(tmp_path / "old", b"a"), store)
    old = {info.key for info in world.context.blobs.list("packs/")}
    world.clock.advance(WINDOW + 1)
    save(tree(tmp_path / "new", b"b"), store)
    read: list[str] = []
    get = world.context.blobs.get

    def noted(key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        read.append(key)
        return get(key, offset=offset, length=length)

    monkeypatch.setattr(world.context.blobs, "get", noted)
    assert boot("second") == 0
    assert read
    assert not old & set(read)


def test_a_store_with_nothing_in_it(boot: Callable[[str], int]) -> None:
    assert boot("second") == 0
