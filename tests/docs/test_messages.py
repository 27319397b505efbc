"""The gallery of wrong files says what the code says, to the letter; scripts/generate_messages.py writes it."""

from __future__ import annotations

import pytest
from scripts.generate_messages import PAGE, WORKFLOWS, Case, cases, written

from tests.support.messages import NOTHING

TEXT = PAGE.read_text(encoding="utf-8")
CASES = list(cases(TEXT))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_the_page_says_what_people_are_told(case: Case) -> None:
    assert case.told() == case.says
    assert case.says.strip() != NOTHING


def test_there_are_many_cases_of_every_kind() -> None:
    assert len(CASES) >= 60
    assert len({case.title for case in CASES}) == len(CASES)
    assert TEXT.count("```text says") == len(CASES)
    assert sum(bool(case.arguments) for case in CASES) >= 8
    assert sum(len(case.files) > 1 for case in CASES) >= 5


def test_each_place_that_is_told_is_in_a_file_of_the_case() -> None:
    for case in CASES:
        for line in case.says.splitlines():
            if not line.startswith((" ", "command line:")):
                assert line.partition(":")[0] in case.files, line


def test_the_script_writes_what_is_told() -> None:
    case = "### A case\n\n```yaml wrong\n- x\n```\n\n```text says\nold\n```\n"

    assert f"\n{WORKFLOWS}:1:1: `workflows:` is missing\n    - x\n    ^\n" in written(case)
    assert "old" not in written(case)
