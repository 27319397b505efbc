"""Requirements files are looked at once for all workflows that name them, and are not kept."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from dstack.providers import packages, registry
from dstack.sdk.provider import PlanError
from tests.unit.providers.conftest import Context


@dataclass
class Files(Context):
    """The code is one requirements file."""

    text: str = ""

    def read_text(self, path: str) -> str | None:
        return self.text if path == "r.txt" else None


def look(text: str) -> None:
    kind = registry()["bash"]
    keys = {"name": "train", "provider": "bash", "commands": ["true"], "requirements": "r.txt"}
    kind().plan(kind.Config.model_validate(keys), Files(files={"r.txt"}, text=text))


def test_what_was_looked_at_does_not_stay_in_memory() -> None:
    """Of 32 files of a megabyte each, or of one wrong line as long."""
    look("numpy\n")
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(32):
            look(f"numpy=={number}\n# " + "x" * ((1 << 20) - 99 - number))
            with pytest.raises(PlanError, match=r"r.txt:1: `%"):
                look(f"%{number}" + "x" * ((1 << 19) - number))
        gc.collect()  # an error and the frames that it came through refer to each other
        assert tracemalloc.get_traced_memory()[0] - before < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_file_is_looked_at_once_for_many_workflows(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    real = packages.logical_lines

    def lines(text: str) -> Iterator[tuple[int, str]]:
        looked.append(text)
        return real(text)

    monkeypatch.setattr(packages, "logical_lines", lines)
    for _ in range(3):
        look("torch==2.7.1\n# once\n")
    assert len(looked) == 1
