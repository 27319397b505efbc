"""Which package a program that ended lacked."""

from __future__ import annotations

from pathlib import Path

import pytest

from dstack.client.missing import missing_package


@pytest.mark.parametrize(
    "last",
    [
        "ModuleNotFoundError: No module named 'numpy'",
        "ModuleNotFoundError: No module named 'numpy.linalg'",
        "/usr/bin/python3: No module named numpy",
    ],
)
def test_a_package_that_is_not_installed(last: str, tmp_path: Path) -> None:
    told = missing_package(str(tmp_path), ["Traceback (most recent call last):", last, ""])

    assert told is not None
    assert told.startswith("numpy is not installed for this job: name its package")


@pytest.mark.parametrize("place", ["layers.py", "layers/__init__.py"])
def test_a_module_of_the_project_is_no_package(place: str, tmp_path: Path) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("")

    assert missing_package(str(tmp_path), ["ModuleNotFoundError: No module named 'layers'"]) is None


def test_only_the_last_line_tells_how_it_ended(tmp_path: Path) -> None:
    lines = ["No module named 'apex': slower", "ValueError: no"]

    assert missing_package(str(tmp_path), lines) is None
    assert missing_package(str(tmp_path), []) is None
