"""What of a secret is masked: every way in which programs write it, and nothing that is everywhere."""

from __future__ import annotations

import base64
import json
import re

import pytest

from dstack.logs.forms import forms, is_maskable
from dstack.logs.masking import MaskSet

PEM = b"-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0\n{\n}\nabc\nqLp3J7Hk2vN0\n-----END PRIVATE KEY-----\n"


def test_each_line_of_a_multi_line_secret_is_masked_but_not_braces_and_short_lines() -> None:
    wanted = MaskSet.of([PEM])
    log = b"x MIIEvQIBADANBgkqhkiG9w0 y\nqLp3J7Hk2vN0\nif (a) {\n}\nabc\n"
    assert wanted.mask(log) == b"x *** y\n***\nif (a) {\n}\nabc\n"


def test_the_fence_of_a_key_is_no_secret() -> None:
    log = b"-----BEGIN PRIVATE KEY-----\nsomething else\n-----END PRIVATE KEY-----\n"
    assert MaskSet.of([PEM]).mask(log) == log


def test_a_whole_multi_line_secret_is_one_mask() -> None:
    assert MaskSet.of([PEM]).mask(b"key: " + PEM + b"end\n") == b"key: ***end\n"
    assert MaskSet.of([PEM]).mask(b"key: " + PEM.replace(b"\n", b"\r\n") + b"end\n") == b"key: ***end\n"


def test_a_key_on_one_line_is_masked_when_a_program_writes_its_lines() -> None:
    one_line = json.dumps({"id": 1, "private_key": PEM.decode()}).encode()
    assert MaskSet.of([one_line]).mask(b"MIIEvQIBADANBgkqhkiG9w0\nqLp3J7Hk2vN0\n") == b"***\n***\n"


@pytest.mark.parametrize(
    "shown",
    [
        b"p%40ss%2Fw0rd%21%3C%3Ex",
        b"p%40ss/w0rd%21%3C%3Ex",
        b"p%40ss%2fw0rd%21%3c%3ex",
        b"p%2540ss%252Fw0rd%2521%253C%253Ex",
        b"p@ss\\/w0rd!<>x",
        b"p@ss/w0rd!\\u003c\\u003ex",
        b"p@ss/w0rd!\\u003C\\u003Ex",
        b"p@ss/w0rd\\!\\<\\>x",
        b"p@ss/w0rd!&lt;&gt;x",
        b"p@ss/w0rd!<>x".hex().encode(),
        b"p@ss/w0rd!<>x".hex().upper().encode(),
        b"p@ss/w0rd!<>x".hex(" ").encode(),
        b"p@ss/w0rd!<>x".hex(":").encode(),
        b"".join(b"\\x%02x" % byte for byte in b"p@ss/w0rd!<>x"),
        b"".join(b"%%%02X" % byte for byte in b"p@ss/w0rd!<>x"),
        base64.b64encode(b"p@ss/w0rd!<>x"),
        base64.b64encode(b"p@ss/w0rd!<>x\n"),
        base64.urlsafe_b64encode(b"p@ss/w0rd!<>x").rstrip(b"="),
    ],
)
def test_escaped_forms(shown: bytes) -> None:
    assert MaskSet.of([b"p@ss/w0rd!<>x"]).mask(b"<" + shown + b">\n") == b"<***>\n"


@pytest.mark.parametrize("text", ["ä-Kennwort", 'it\'s "so" \\ $HOME `x`', "tab\tand 'quote'"])
def test_an_exception_within_json_within_a_log_record(text: str) -> None:
    wanted = MaskSet.of([text.encode()])
    for shown in (
        str(ValueError(text)),
        str(KeyError(text)),
        json.dumps(repr(text)),
        json.dumps(json.dumps(text)),
        json.dumps(repr(text), ensure_ascii=False),
        repr(repr(text)),
    ):
        masked = wanted.mask_text(f"Error: {shown} here")
        assert re.fullmatch(r"""Error: [\\'"]*\*\*\*[\\'"]* here""", masked), shown


def test_white_space_is_no_secret() -> None:
    assert not forms([b"", b" \n", b"\t" * 9])


def test_what_is_found_everywhere_is_not_masked() -> None:
    assert not forms([b"abc", b" 12 "])
    assert not is_maskable(b"abc\n")
    assert is_maskable(b"abcd")


def test_a_short_secret_is_masked_as_it_is_only() -> None:
    assert forms([b"abcde"]) == {b"abcde"}


def test_a_secret_is_found_without_what_is_blank_around_it() -> None:
    assert MaskSet.of([b"  s3cret-value \n"]).mask(b"<s3cret-value>") == b"<***>"


def test_a_long_secret_makes_no_more_forms_than_memory_holds() -> None:
    value = bytes(range(33, 127)) * 700
    found = forms([value])
    assert sum(map(len, found)) < 400 * len(value)
