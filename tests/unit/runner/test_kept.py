"""The environments that are kept: which go, and that none goes which is used or about to be."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
import uuid
from collections.abc import Coroutine
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from dstack.runner.kept import COMPLETE, FROZEN, KeptEnvironments, Limits, own_key


class Shelf:
    """Environments that were made by writing their files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kept = self.with_limits()
        self.clock = 0

    def with_limits(self, count: int = 100, size: int = 1 << 40) -> KeptEnvironments:
        self.kept = KeptEnvironments(self.root, Limits(count, size))
        return self.kept

    def make(self, key: str, *, size: int = 10, whole: bool = True) -> str:
        """The newest by its last use."""
        (self.root / key / "bin").mkdir(parents=True)
        (self.root / key / "bin" / "python").touch()
        (self.root / f"{key}.lock").touch()
        if whole:
            self.clock += 1
            marker = self.root / key / COMPLETE
            marker.write_text(json.dumps({"size": size}))
            os.utime(marker, (self.clock, self.clock))
        return key

    def there(self) -> set[str]:
        return {path.name for path in self.root.iterdir() if path.is_dir()}

    def held(self, key: str) -> UUID:
        attempt_id = uuid.uuid4()
        self.kept.hold(attempt_id, key)
        return attempt_id


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "envs")


def run(course: Coroutine[Any, Any, None]) -> None:
    asyncio.run(course)


def test_the_longest_unused_go_until_few_enough_are_left(shelf: Shelf) -> None:
    kept = shelf.with_limits(count=2)
    for key in "abcd":
        shelf.make(key)
    kept.touch("a")

    async def course() -> None:
        assert await kept.evict() == ["b", "c"]
        assert {path.name for path in shelf.root.iterdir()} == {"a", "a.lock", "d", "d.lock"}
        assert await kept.evict() == []

    run(course())


def test_they_go_until_they_are_small_enough(shelf: Shelf) -> None:
    kept = shelf.with_limits(size=100)
    for key, size in (("a", 10), ("b", 60), ("c", 50), ("d", 40)):
        shelf.make(key, size=size)

    async def course() -> None:
        assert await kept.evict() == ["a", "b"]
        assert shelf.there() == {"c", "d"}

    run(course())


def test_one_that_is_used_never_goes(shelf: Shelf) -> None:
    kept = shelf.with_limits(count=0)
    for key in "abc":
        shelf.make(key)
    first, second = shelf.held("b"), shelf.held("b")

    async def course() -> None:
        assert await kept.evict() == ["a", "c"]
        await kept.release(first)
        assert await kept.evict() == []
        await kept.release(second)
        assert await kept.evict() == ["b"]

    run(course())


def test_what_was_never_finished_goes_unless_it_is_being_made(shelf: Shelf) -> None:
    kept = shelf.kept
    for key in "ab":
        shelf.make(key, whole=False)
    lost = shelf.make(own_key(uuid.uuid4()), whole=False)
    shelf.held("a")

    async def course() -> None:
        assert set(await kept.evict()) == {"b", lost}
        assert shelf.there() == {"a"}

    run(course())


def test_one_whose_removal_has_begun_is_not_found_and_made_anew_after_it(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = shelf.with_limits(count=0)
    shelf.make("a")
    begun, go_on = threading.Event(), threading.Event()
    plain = shutil.rmtree

    def slow(path: Path) -> None:
        begun.set()
        assert go_on.wait(30)
        plain(path)

    monkeypatch.setattr(shutil, "rmtree", slow)

    async def course() -> None:
        removing = asyncio.create_task(kept.evict())
        await asyncio.to_thread(begun.wait, 30)
        shelf.held("a")
        assert not kept.is_whole("a")
        building = asyncio.create_task(build())
        for _ in range(10):
            await asyncio.sleep(0)
        assert not building.done()
        go_on.set()
        await building
        assert await removing == ["a"]
        assert kept.is_whole("a")
        assert await kept.evict() == []

    async def build() -> None:
        async with kept.locked("a"):
            shelf.make("a")

    run(course())


def test_one_that_is_taken_between_the_look_and_the_removal_stays(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = shelf.with_limits(count=0)
    shelf.make("a")
    looked = asyncio.Event()
    plain = KeptEnvironments._surplus  # pyright: ignore[reportPrivateUsage]

    def surplus(*args: Any) -> list[str]:
        looked.set()
        return plain(*args)

    monkeypatch.setattr(KeptEnvironments, "_surplus", surplus)

    async def course() -> None:
        async with kept.locked("a"):
            removing = asyncio.create_task(kept.evict())
            await looked.wait()
            shelf.held("a")
        assert await removing == []
        assert kept.is_whole("a")

    run(course())


def test_what_cannot_be_removed_is_told_and_tried_again(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = shelf.with_limits(count=0)
    for key in "ab":
        shelf.make(key)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    async def course() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", refuse)
            assert await kept.evict() == []
        assert "the Python environment a cannot be removed" in caplog.text
        assert set(await kept.evict()) == {"a", "b"}

    run(course())


def test_its_list_tells_no_password(shelf: Shelf) -> None:
    shelf.make("a")
    (shelf.root / "a" / FROZEN).write_text("alpha==1.0\nbeta @ git+https://ada:secret@example.org/beta@abc\n")
    assert shelf.kept.packages(shelf.held("a")) == ("alpha==1.0", "beta @ git+https://***@example.org/beta@abc")


def test_completed_it_knows_its_size(shelf: Shelf) -> None:
    kept = shelf.with_limits(size=100)
    for key in "ab":
        shelf.make(key, whole=False)
        (shelf.root / key / "bin" / "large").write_bytes(b"x" * 80)

    async def course() -> None:
        for key in "ab":
            await kept.complete(key, {"python": "/usr/bin/python3"})
            os.utime(shelf.root / key / COMPLETE, (ord(key), ord(key)))
        assert json.loads((shelf.root / "a" / COMPLETE).read_bytes())["size"] == 80
        assert await kept.evict() == ["a"]

    run(course())
