"""A job finds the code exactly as it is on the submitter's disk, in whatever state the repository is."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cli.conftest import Home
from tests.support.repositories import State
from tests.support.repository_files import STATES


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder with a short path: a socket is made in some."""
    with tempfile.TemporaryDirectory(prefix="dstack-code-") as made:
        folder = Path(made).resolve() / "project"
        folder.mkdir()
        yield folder


@pytest.mark.parametrize("state", STATES)
def test_the_code_of_a_job_is_the_tree_on_disk(shared_home: Home, folder: Path, state: str) -> None:
    made = STATES[state](folder)
    _check(shared_home, folder / made.root, made)


def _check(home: Home, root: Path, state: State) -> None:
    done = home.run("run", "show", cwd=root)
    found = json.loads(done.stdout)
    expected = state.goes(root)
    assert {bytes.fromhex(path) for path in found} == {bytes.fromhex(path) for path in expected}
    assert found == expected
    warnings = [line for line in done.stderr.splitlines(keepends=True) if line.startswith("warning: ")]
    assert len(warnings) == len(state.says), done.stderr
    for words in state.says:
        assert any(words in line for line in warnings), done.stderr
