from __future__ import annotations

import pytest

from dstack.runner.expansion import expanded

THERE = {"PATH": "/usr/bin", "HOME": "/home/ada"}


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("/x:$PATH", "/x:/usr/bin"), ("${HOME}/data", "/home/ada/data"), ("$PATHS", "$PATHS"), ("${GONE}", "${GONE}"),
        ("pa$$PATH", "pa$PATH"), ("$", "$"), ("100$", "100$"), ("$1", "$1"), ("${HOME", "${HOME"), ("\0x\0", "\0x\0"),
        ("$$$HOME", "$/home/ada"),
    ],
)  # fmt: skip
def test_a_name_stands_for_what_is_there(value: str, found: str) -> None:
    assert expanded(THERE, {"X": value}) == {**THERE, "X": found}


def test_one_is_there_for_the_next() -> None:
    assert expanded(THERE, {"PATH": "/a:$PATH", "B": "$PATH", "C": "$B$B"}) == {
        "PATH": "/a:/usr/bin", "HOME": "/home/ada", "B": "/a:/usr/bin", "C": "/a:/usr/bin/a:/usr/bin",
    }  # fmt: skip


def test_what_was_filled_in_is_not_read_again() -> None:
    assert expanded({"A": "$PATH"}, {"B": "$A"})["B"] == "$PATH"
