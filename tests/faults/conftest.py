"""Fixtures of the fault tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A fresh home; at the end nothing of it may run."""
    with Home(tmp_path) as made:
        yield made
