"""Code on a file system that cannot be written is shipped like any other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.disks import Disks
from tests.support.describe import describe
from tests.support.repositories import committed, project, put
from tests.support.shipping import Desk


@pytest.fixture
def disks() -> Iterator[Disks]:
    made = Disks()
    yield made
    made.close()


def test_with_and_without_git(disks: Disks, tmp_path: Path) -> None:
    for name, make in (("with-git", committed), ("without", project)):
        root = tmp_path / name
        root.mkdir()
        make(root)
        put(root, "train.py", "print(2)\n")
        before = describe(bytes(root))
        disks.read_only(root)
        desk = Desk(tmp_path / f"{name}-desk")
        shipped = desk.ship(root)
        assert describe(bytes(desk.unpack(shipped.code, "copy"))) == before
        assert ("+print(2)" in (shipped.diff or "")) == (name == "with-git")
        assert shipped.notes == []
