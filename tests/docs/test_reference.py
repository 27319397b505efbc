"""The generated reference pages are those that the commands and the keys give today."""

from __future__ import annotations

import pytest
from scripts import generate_reference


@pytest.mark.parametrize("name", ["commands.md", "workflows.md"])
def test_a_generated_page_is_current(name: str) -> None:
    page = generate_reference.FOLDER / name
    assert page.read_text(encoding="utf-8") == generate_reference.pages()[name], (
        "run `.venv/bin/python scripts/generate_reference.py`"
    )
