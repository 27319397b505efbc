"""Workflows held against the files that would be sent with them."""

from __future__ import annotations

from dstack import workflows
from dstack.providers import registry

TEXT = """
workflows:
  - name: prepare
    provider: python
    script: prepare.py
    requirements: requirements.txt
    artifacts: [data, generated]
  - name: train
    provider: python
    script: src/trian.py --epochs ${{ epochs }}
    depends-on: [prepare]
  - name: made
    provider: python
    script: generated/run.py
    depends-on: [prepare]
  - name: reused
    provider: python
    script: anything.py
    deps: [prepare]
  - name: unknown
    provider: python
    script: ${{ script }}
  - name: shell
    provider: bash
    commands: [./nowhere.sh]
"""
VARIABLES = "variables:\n  train:\n    epochs: 3\n"
FILES = ["prepare.py", "src/train.py", "requirements.txt"]


def told(files: list[str], text: str = TEXT) -> list[tuple[str, str]]:
    loaded = workflows.load({".dstack/workflows.yaml": text, ".dstack/variables.yaml": VARIABLES}, registry())
    return [(found.message, found.hint) for found in workflows.check_code(loaded, files)]


def test_a_script_that_is_not_there_is_told_with_a_near_one() -> None:
    [(message, hint)] = told(FILES)
    assert "src/trian.py" in message
    assert "src/train.py" in hint


def test_a_requirements_file_that_is_not_there() -> None:
    messages = [message for message, _ in told(["prepare.py", "src/trian.py"])]
    assert messages == ["there is no file `requirements.txt` in the code that is sent"]


def test_what_is_in_requirements_files_is_asked_for_and_told() -> None:
    loaded = workflows.load({".dstack/workflows.yaml": TEXT, ".dstack/variables.yaml": VARIABLES}, registry())
    files = ["prepare.py", "src/trian.py", "requirements.txt", "more.txt", "link"]
    contents: dict[str, bytes | None] = {}

    def check() -> tuple[list[str], list[str]]:
        held = workflows.Contents(contents)
        return [found.message for found in workflows.check_code(loaded, files, held)], list(held.asked)

    assert check() == ([], ["requirements.txt"])
    contents["requirements.txt"] = b"six\nnumpy==\n-r more.txt\n-r link/all.txt\n-r gone.txt"
    messages, asked = check()
    assert [message.split("`")[0] for message in messages] == [
        "requirements.txt:2: ",
        "requirements.txt:5: there is no file ",
    ]
    assert asked == ["more.txt", "link/all.txt"]
    contents |= {"more.txt": "ä".encode("latin-1"), "link/all.txt": None}
    messages, asked = check()
    assert messages[1:3] == [
        "requirements.txt:3: `more.txt` is not text in UTF-8: see line 1",
        "requirements.txt:4: `link/all.txt` is a link to what is not in the code that is sent",
    ]
    assert asked == []


def test_what_dependencies_bring_is_not_missed_and_what_runs_give_is_not_asked_for() -> None:
    assert told([*FILES, "src/trian.py"]) == []


def test_nothing_is_said_twice() -> None:
    text = "workflows:\n  - {name: a, provider: bash, commands: ['${{ nothing }}']}\n"
    loaded = workflows.load({".dstack/workflows.yaml": text}, registry())
    assert len(loaded.warnings) == 1
    assert workflows.check_code(loaded, []) == []
    assert workflows.check_code(workflows.load({".dstack/workflows.yaml": "workflows: []\n"}, registry()), []) == []


def test_a_long_chain_is_planned_once() -> None:
    """Each workflow once, whatever depends on it."""
    entries = [
        f"  - {{name: w{at}, provider: python, script: s.py, depends-on: [{f'w{at - 1}' if at else ''}]}}\n"
        for at in range(300)
    ]
    text = "workflows:\n" + "".join(entries)
    assert len(told([], text)) == 300
    assert told(["s.py"], text) == []
