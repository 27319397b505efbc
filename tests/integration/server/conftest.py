"""Worlds: a server's services and loops in this process, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.emptied import emptied_postgresql, emptied_url, shared_postgresql
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
