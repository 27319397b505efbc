"""What people are told about wrong files and arguments, to the letter.

Each file of `wrong/` holds the words after `dstack run`, the files, and what is said.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from dstack.providers import registry
from dstack.workflows import Invalid, ReusedInput, UnknownTag, load, plan, render

CASES = sorted((Path(__file__).parent / "wrong").glob("*.txt"))
MARK = "==> "
SAYS = "says"


def resolve_tag(workflow: str | None, tag: str) -> list[ReusedInput]:
    raise UnknownTag(["latest", "v1"] if workflow else [])


def newest_done(workflow: str) -> list[ReusedInput]:
    raise UnknownTag


def says(arguments: list[str], files: dict[str, str]) -> str:
    name, *rest = arguments
    try:
        workflows = load(files, registry())
        plan(
            workflows,
            name,
            rest,
            run_name="run-1",
            read_text=lambda path: None,
            resolve_tag=resolve_tag,
            newest_done=newest_done,
        )
    except Invalid as error:
        return "\n".join(render(diagnostic) for diagnostic in error.diagnostics) + "\n"
    return "nothing\n"


def read(case: Path) -> tuple[list[str], dict[str, str], str]:
    head, *parts = case.read_text(encoding="utf-8").split(MARK)
    sections = dict(part.split("\n", 1) for part in parts)
    expected = sections.pop(SAYS, "")
    return shlex.split(head.removeprefix("$ ")), sections, expected


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_wrong_files_say(case: Path) -> None:
    arguments, files, expected = read(case)

    assert says(arguments, files) == expected


def test_there_are_cases() -> None:
    assert len(CASES) >= 20
