"""Values beside the arguments: what is given by hand, by file, and what a workflow file may ask for."""

from __future__ import annotations

import pytest

from dstack.client.values import ValuesError, collect, names_in

SHELL = {"HF_TOKEN": "hf_1", "SEED": "7", "ODD": "\udcff", "HOME": "/home/me"}


def test_a_name_takes_the_shells_value_and_a_pair_its_own() -> None:
    arguments, values = collect(["HF_TOKEN", "A=1", "B=", "C=x=y"], {}, {}, SHELL)
    assert arguments == ["-e", "HF_TOKEN", "-e", "A", "-e", "B", "-e", "C"]
    assert values == {"HF_TOKEN": "hf_1", "A": "1", "B": "", "C": "x=y"}


def test_a_name_that_is_not_set_is_left_for_the_server_to_tell() -> None:
    assert collect(["MISSING"], {}, {}, SHELL) == (["-e", "MISSING"], {})


def test_what_is_typed_wins_over_files_and_the_last_over_the_first() -> None:
    files = {"A": "file", "B": "file", "SEED": None, "HF_TOKEN": "file"}
    arguments, values = collect(["A=one", "A=two", "HF_TOKEN"], files, {}, SHELL)
    assert values == {"A": "two", "B": "file", "SEED": "7", "HF_TOKEN": "hf_1"}
    assert arguments[1::2] == ["A", "B", "SEED", "HF_TOKEN"]


@pytest.mark.parametrize("text", ["1A=secret", "=secret", "se/cret+value", "-x", "hf abc=secret", ""])
def test_what_is_no_name_shows_no_value(text: str) -> None:
    with pytest.raises(ValuesError, match="cannot name") as told:
        collect([text], {}, {}, SHELL)
    assert "secret" not in told.value.message
    assert "cret+" not in told.value.message


@pytest.mark.parametrize("text", ["ODD", "A=\udcff", "A=x\0secret"])
def test_what_cannot_be_sent(text: str) -> None:
    with pytest.raises(ValuesError) as told:
        collect([text], {}, {}, SHELL)
    assert "secret" not in told.value.message


def test_a_workflow_file_gets_the_values_that_it_names() -> None:
    files = {"w": "workflows:\n  - name: a\n    env:\n      - HF_TOKEN\n      - A=1\n      - MISSING\n"}
    assert collect([], {}, files, SHELL) == ([], {"HF_TOKEN": "hf_1"})
    assert collect(["HF_TOKEN=other"], {}, files, SHELL)[1] == {"HF_TOKEN": "other"}


@pytest.mark.parametrize(
    "text",
    [
        "env: [A, B]\n",
        "env: ['A', \"B\", C=1]\n",
        "environment: [\n  A,  # the first\n  B\n]\n",
        "env: [A, 'C=Bearer ${{ secrets.C }}', B]\n",
        "env:\n- A\n- 'B'   # comment\n- C=1\n- D E\n",
        "x: &shared\n  - A\n  - B\nenv: *shared\n",
        "env:\r\n  - A\r\n  - B\r\n",
    ],
)
def test_names_in_lists(text: str) -> None:
    assert names_in({"f": text}) == {"A", "B"}


@pytest.mark.parametrize(
    "text", ["", "commands:\n  - A\n", "env: {A: 1}\n", "env:\n  A: B\n", "env:\n# - A\n", "env: '[A'\n", "env: A\n"]
)
def test_nothing_else(text: str) -> None:
    assert names_in({"f": text}) == set()
