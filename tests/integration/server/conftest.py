"""Worlds: a server's services and loops in this process, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.emptied import emptied_postgresql, emptied_url, shared_postgresql
from tests.support.shop import Shop
from tests.support.world import World

__all__ = ["emptied_postgresql", "emptied_url", "shared_postgresql"]


@pytest.fixture
def make_world(emptied_url: str, tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Makes the test's world with settings of its own."""
    made: list[World] = []

    def make(**settings: Any) -> World:
        made.append(World(emptied_url, tmp_path / "home", **settings))
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """A world with the settings of embedded mode."""
    return make_world()


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
