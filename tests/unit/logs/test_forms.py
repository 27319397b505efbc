from __future__ import annotations

import pytest

from dstack.logs.forms import forms
from dstack.logs.masking import Masker

PEM = b"-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0\n{\n}\nabc\nqLp3J7Hk2vN0\n-----END KEY-----\n"


def test_each_line_of_a_multi_line_secret_is_masked_but_not_braces_and_short_lines() -> None:
    masker = Masker([PEM])
    output = masker.feed(b"x MIIEvQIBADANBgkqhkiG9w0 y\nqLp3J7Hk2vN0\nif (a) {\n}\nabc\n") + masker.flush()
    assert output == b"x *** y\n***\nif (a) {\n}\nabc\n"


def test_a_whole_multi_line_secret_is_one_mask() -> None:
    masker = Masker([PEM])
    assert masker.feed(b"key: " + PEM + b"end\n") + masker.flush() == b"key: ***end\n"


@pytest.mark.parametrize(
    "shown",
    [
        b"p%40ss%2Fw0rd%21",
        b"p%40ss/w0rd%21",
        b"p%40ss%2fw0rd%21",
        b"p@ss\\/w0rd!",
        b"p@ss/w0rd\\!",
    ],
)
def test_escaped_forms(shown: bytes) -> None:
    masker = Masker([b"p@ss/w0rd!"])
    assert masker.feed(b"<" + shown + b">\n") + masker.flush() == b"<***>\n"


def test_white_space_is_no_secret() -> None:
    assert not forms([b"", b" \n", b"\t"])


def test_a_short_secret_is_masked_as_it_is_only() -> None:
    assert forms([b"abc"]) == {b"abc"}
