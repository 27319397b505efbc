"""The soak in its shortest form; `scripts/soak` is the long one."""

from __future__ import annotations

from pathlib import Path

from tests.faults.soak.player import Player


def test_ten_seconds_of_it(tmp_path: Path) -> None:
    player = Player(tmp_path / "soak", 20, print)
    player.play(10)
    assert player.counts["submit"] > 0
