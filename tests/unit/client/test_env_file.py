"""Files of `NAME=value` lines: the syntax that most tools agree on, and where exactly a line is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from dstack.client.env_file import EnvFileError, parse, read

FILE = r"""# a comment
export A=1
B = two words  # comment
C='single $X \n
line2'
D="a\nb \"q\" \$x \\ \z"   # c
E
F=
G=#x
H=a#b
 I="with = and # in it"
J='x'
J=later
"""


def test_the_syntax() -> None:
    assert parse(FILE, "f") == {
        "A": "1",
        "B": "two words",
        "C": "single $X \\n\nline2",
        "D": 'a\nb "q" $x \\ \\z',
        "E": None,
        "F": "",
        "G": "",
        "H": "a#b",
        "I": "with = and # in it",
        "J": "later",
    }


def test_line_ends_and_marks_of_other_systems(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_bytes(b"\xef\xbb\xbfA=1\r\nB='x\r\ny'\r\n\r\nC=3")
    assert read(str(path)) == {"A": "1", "B": "x\ny", "C": "3"}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("1A=secret", "f:1:1: a line is"),
        ("A=1\nB C=secret", "f:2:1: a line is"),
        ("=secret", "f:1:1: a line is"),
        ("export", None),
        ("export =secret", "f:1:8: a line is"),
        ("  secret value\n", "f:1:3: a line is"),
        ("A=1\n\nB='secret\nC=2\n", "f:3:3: the quote ' is not closed"),
        ('B="secret\\"\n', 'f:1:3: the quote " is not closed'),
        ("A='secret'#x\n", "f:1:11: something stands behind"),
        ('A="x" secret\n', "f:1:6: something stands behind"),
        ("A=sec\0ret\n", "f:1:1: the value of `A` holds a zero byte"),
    ],
)
def test_what_is_wrong_is_told_with_its_place_and_without_its_value(text: str, wrong: str | None) -> None:
    if wrong is None:
        assert parse(text, "f") == {"export": None}
        return
    with pytest.raises(EnvFileError) as told:
        parse(text, "f")
    assert str(told.value).startswith(wrong)
    assert "secret" not in str(told.value)


def test_every_wrong_line_is_told_at_once() -> None:
    with pytest.raises(EnvFileError) as told:
        parse("A=1\n2=x\nB=ok\n3=y\nC='open\n", "f")
    assert [line.split(": ")[0] for line in str(told.value).splitlines()] == ["f:2:1", "f:4:1", "f:5:3"]


def test_a_file_that_is_not_text_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "env"
    with pytest.raises(EnvFileError, match="No such file"):
        read(str(path))
    path.write_bytes(b"A=1\nB=\xff")
    with pytest.raises(EnvFileError, match=r":2:3: this is not UTF-8"):
        read(str(path))
    with pytest.raises(EnvFileError, match="directory"):
        read(str(tmp_path))
