"""What people are told about wrong files and arguments, to the letter.

Each file of `wrong/` holds the words after `dstack run`, the files, and what is said.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.support.messages import told

CASES = sorted((Path(__file__).parent / "wrong").glob("*.txt"))
MARK = "==> "
SAYS = "says"


def read(case: Path) -> tuple[list[str], dict[str, str], str]:
    head, *parts = case.read_text(encoding="utf-8").split(MARK)
    sections = dict(part.split("\n", 1) for part in parts)
    expected = sections.pop(SAYS, "")
    return shlex.split(head.removeprefix("$ ")), sections, expected


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_wrong_files_say(case: Path) -> None:
    arguments, files, expected = read(case)

    assert told(files, arguments) == expected


def test_there_are_cases() -> None:
    assert len(CASES) >= 20
