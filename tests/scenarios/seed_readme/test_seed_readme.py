"""The workflows of the README that the project began with run as they stand; only `memory` is lowered to fit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CODE = Path(__file__).parent / "code"
DSTACK = Path(sys.executable).with_name("dstack")


class Person:
    """Types `dstack …` in a fresh home, in a git repository with the scenario's code."""

    def __init__(self, root: Path) -> None:
        self.repo = root / "repo"
        shutil.copytree(CODE, self.repo)
        self.environment = {
            "PATH": f"{DSTACK.parent}:/usr/bin:/bin",
            "HOME": str(root),
            "DSTACK_HOME": str(root / "home"),
            "LANG": "C.UTF-8",
        }
        subprocess.run(["git", "init", "--quiet"], cwd=self.repo, env=self.environment, check=True)

    def types(self, *words: str) -> str:
        """What `dstack WORDS` prints; it must succeed."""
        done = subprocess.run(
            [DSTACK, *words],
            check=False,
            cwd=self.repo,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, (
            f"dstack {' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        )
        return done.stdout

    def runs(self) -> list[dict[str, object]]:
        return json.loads(self.types("runs", "-a", "--json"))


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    person = Person(tmp_path)
    yield person
    person.types("server", "stop")


def test_prepare_tag_then_train_with_the_readmes_command(person: Person, tmp_path: Path) -> None:
    assert "prepared 100 numbers" in person.types("run", "prepare")
    person.types("tag", str(person.runs()[0]["name"]), "latest")

    output = person.types("run", "train", "--gpu", "0", "--epoch", "100", "--seed", "2")

    assert [line for line in output.splitlines() if "epoch" in line][-1].endswith("epoch 100 of 100")
    assert "prepared 100 numbers" not in output, "prepare:latest is reused, not run"
    train = person.runs()[0]
    assert (train["workflow"], train["status"], train["exit_code"]) == ("train", "done", 0)

    person.types("artifacts", "download", str(train["name"]), "-o", str(tmp_path / "out"))
    states = list((tmp_path / "out").rglob("state.json"))
    assert [json.loads(state.read_text()) for state in states] == [{"epoch": 100, "seed": 2, "gpu": "0", "sum": 5050}]
    assert not (person.repo / "data").exists(), "nothing appears in the person's own folder"
    assert not (person.repo / "checkpoint").exists()
