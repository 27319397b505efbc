"""The server's routes over a fresh database of each kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.emptied import emptied_postgresql, emptied_url, shared_postgresql
from tests.support.http import Asked
from tests.support.world import World

__all__ = ["emptied_postgresql", "emptied_url", "shared_postgresql"]


@pytest.fixture
def world(emptied_url: str, tmp_path: Path) -> Iterator[World]:
    made = World(emptied_url, tmp_path / "home", socket="in this process")
    yield made
    made.close()


@pytest.fixture
def asked(world: World) -> Asked:
    return Asked(world)
