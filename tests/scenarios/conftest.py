"""Each scenario is a folder: `code/` is what the person has, the test what they type and what must come of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.markdown import ROOT
from tests.scenarios.person import Person


@pytest.fixture
def person(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Person]:
    """A person with the scenario's `code/`, or with the example of the same name."""
    folder = request.path.parent
    code = folder / "code" if (folder / "code").is_dir() else ROOT / "examples" / folder.name
    person = Person(tmp_path, code)
    yield person
    person.types("server", "stop")
