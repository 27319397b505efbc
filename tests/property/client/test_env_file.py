"""Any text is read, or its mistakes are told at places that it has; what was written comes back."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from dstack.client.env_file import EnvFileError, parse

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=30)


@given(st.text(st.sampled_from("AB=#'\"\\ \n\texport$"), max_size=60))
def test_any_text_is_read_or_told_of(text: str) -> None:
    lines = text.split("\n")
    try:
        found = parse(text, "f")
    except EnvFileError as error:
        for told in str(error).splitlines():
            place = re.match(r"f:(\d+):(\d+): ", told)
            assert place is not None
            assert 1 <= int(place[2]) <= len(lines[int(place[1]) - 1]) + 1
    else:
        assert all(name.isidentifier() for name in found)


@given(st.dictionaries(NAMES, TEXT, max_size=6), st.booleans())
def test_what_is_quoted_comes_back(values: dict[str, str], spaced: bool) -> None:
    equals = " = " if spaced else "="
    escape = str.maketrans({"\\": "\\\\", '"': '\\"', "$": "\\$", "\n": "\\n"})
    text = "".join(f'{name}{equals}"{value.translate(escape)}"  # {name}\n' for name, value in values.items())
    assert parse(text, "f") == values
