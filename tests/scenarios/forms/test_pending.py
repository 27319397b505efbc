"""Forms that cannot run yet are read whole, and say what to do instead: see `pending.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from dstack.providers import registry
from dstack.workflows import Invalid, load, plan, render
from tests.scenarios.forms.forms import ROWS
from tests.scenarios.forms.pending import PENDING, Pending
from tests.scenarios.person import Person


def texts(form: Pending) -> dict[str, str]:
    listed = f"workflows:\n  - name: it\n{form.text}" if form.text else "workflows: []\n"
    return {".dstack/workflows.yaml": listed}


@pytest.mark.parametrize("name", PENDING)
def test_it_says_what_to_do_instead(name: str) -> None:
    form = PENDING[name]

    def nothing(*_: object) -> list[object]:
        raise AssertionError("it depends on nothing")

    with pytest.raises(Invalid) as caught:
        plan(
            load(texts(form), registry()),
            form.words[0],
            form.words[1:],
            run_name="goose-1",
            read_text=lambda path: "",
            resolve_tag=nothing,  # pyright: ignore[reportArgumentType]
            newest_done=nothing,  # pyright: ignore[reportArgumentType]
        )

    assert "".join(f"{render(diagnostic)}\n" for diagnostic in caught.value.diagnostics) == form.says


@pytest.mark.parametrize("name", [name for name, form in PENDING.items() if form.reads])
def test_all_of_it_is_read(name: str) -> None:
    form = PENDING[name]

    config = load(texts(form), registry())["it"].config

    assert {**config.model_dump(), **form.reads} == config.model_dump()
    assert form.reads.keys() <= config.model_dump().keys()


def test_the_list_only_shrinks() -> None:
    assert len(PENDING) <= 25, "what is new runs; lower this number with every form that moves to `forms.py`"
    assert not PENDING.keys() & ROWS.keys()


def test_nothing_is_stored_of_what_cannot_run(tmp_path: Path) -> None:
    code = tmp_path / "code" / ".dstack"
    code.mkdir(parents=True)
    (code / "workflows.yaml").write_text(texts(PENDING["1.5-docker"])[".dstack/workflows.yaml"])
    person = Person(tmp_path, code.parent)
    try:
        person.types("run", "it", code=2)
        person.types("run", "docker", "ubuntu", code=2)
        assert person.runs() == []
    finally:
        person.types("server", "stop")
