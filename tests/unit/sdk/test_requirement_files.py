"""Requirements files as uv reads them: encodings, lines, and the files that they name."""

from __future__ import annotations

import codecs

import pytest

from dstack.sdk.requirement_files import NotText, decode, logical_lines, named_file
from tests.support.growth import TIMES, growth

TEXT = "six\n# ä\n"


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode(),
        codecs.BOM_UTF8 + TEXT.encode(),
        codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    ],
)
def test_texts(data: bytes) -> None:
    assert decode(data) == TEXT


def test_nothing_is_text() -> None:
    assert decode(b"") == decode(codecs.BOM_UTF8) == ""


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (TEXT.encode("latin-1"), "see line 2"),
        (codecs.BOM_UTF16_LE + "a\nb\n".encode("utf-16-le") + b"c", "see line 3"),
        (TEXT.encode("utf-16-le"), "without the mark"),
        (TEXT.encode("utf-16-be"), "without the mark"),
        (TEXT.encode("utf-32"), "UTF-32"),
        (codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be"), "UTF-32"),
    ],
)
def test_what_is_no_text(data: bytes, why: str) -> None:
    with pytest.raises(NotText, match=f"^is not text in UTF-8: .*{why}"):
        decode(data)


def test_lines_that_go_on_are_one() -> None:
    text = "a\nb \\\n  c\n\nd==\n# words \\\ne # more \\\r\nf\\\n"

    assert list(logical_lines(text)) == [(1, "a"), (2, "b   c"), (5, "d=="), (7, "e"), (8, "f")]


def test_only_the_ends_of_lines_end_a_line() -> None:
    assert list(logical_lines("# a\x0cb c\u2028d e\nf\rg")) == [(2, "f"), (3, "g")]


def test_a_line_that_goes_on_and_on_takes_no_longer_than_its_length() -> None:
    assert growth(lambda size: "numpy \\\n" * size, lambda text: list(logical_lines(text)), 5000) < 3 * TIMES


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("-r a.txt", "a.txt"),
        ("-r a b.txt", "a b.txt"),
        ("-r 'a b.txt'", "a b.txt"),
        ('--requirement="a.txt"', "a.txt"),
        ("-c=a.txt", "a.txt"),
        ("-ca.txt", "a.txt"),
        ("--constraint  a.txt", "a.txt"),
        ("-r", ""),
        ("--requirementa.txt", ""),
        ("-e .", ""),
        ("numpy", ""),
    ],
)
def test_files_that_lines_name(line: str, name: str) -> None:
    assert named_file(line) == name
