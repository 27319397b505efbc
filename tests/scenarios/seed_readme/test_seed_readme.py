"""The workflows of the README that the project began with run as they stand; only `memory` is lowered to fit."""

from __future__ import annotations

import json
from pathlib import Path

from tests.scenarios.person import Person


def test_prepare_tag_then_train_with_the_readmes_command(person: Person, tmp_path: Path) -> None:
    assert "prepared 100 numbers" in person.types("run", "prepare")
    person.types("tag", person.runs()[0]["name"], "latest")

    output = person.types("run", "train", "--gpu", "0", "--epoch", "100", "--seed", "2")

    assert [line for line in output.splitlines() if "epoch" in line][-1].endswith("epoch 100 of 100")
    assert "prepared 100 numbers" not in output, "prepare:latest is reused, not run"
    train = person.runs()[0]
    assert (train["workflow"], train["status"], train["exit_code"]) == ("train", "done", 0)

    person.types("artifacts", "download", train["name"], "-o", str(tmp_path / "out"))
    states = [json.loads(path.read_text()) for path in (tmp_path / "out").rglob("state.json")]
    assert states == [{"epoch": 100, "seed": 2, "gpu": "0", "sum": 5050}]
    assert not (person.repo / "data").exists(), "nothing appears in the person's own folder"
    assert not (person.repo / "checkpoint").exists()
