"""How names are shown: a name must neither move the cursor nor pass for another."""

from __future__ import annotations

import pytest

from dstack.client.notes import quoted


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("lib/net.py", "lib/net.py"),
        ("a b/né 🦆", "a b/né 🦆"),
        ("two\nlines", "two\\nlines"),
        ("\x1b[2J", "\\x1b[2J"),
        ("tab\tand\rreturn", "tab\\tand\\rreturn"),
        ("\u202eltr", "\\u202eltr"),
        ("\udcff\udcfe", "\\xff\\xfe"),
        ("caf\udce9\n", "caf\\xe9\\n"),
    ],
)
def test_names(path: str, shown: str) -> None:
    assert quoted(path) == shown
    assert quoted(path).isprintable()
