"""The server's routes over a fresh database of each kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.http import Asked
from tests.support.world import World


@pytest.fixture
def world(database_url: str, tmp_path: Path) -> Iterator[World]:
    made = World(database_url, tmp_path / "home", socket="in this process")
    yield made
    made.close()


@pytest.fixture
def asked(world: World) -> Asked:
    return Asked(world)
