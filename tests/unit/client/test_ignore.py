"""`.dstackignore` against what gitignore(5) says."""

from __future__ import annotations

import pytest

from dstack.client.ignore import IgnoreRules

PATHS = [
    "a.txt",
    "b.log",
    "data/x.bin",
    "data/keep.txt",
    "src/data/y.bin",
    "src/m.py",
    "src/deep/m.log",
    "build/out",
    "w[1].txt",
]


@pytest.mark.parametrize(
    ("text", "ignored"),
    [
        ("", []),
        ("# a comment\n\n", []),
        ("*.log", ["b.log", "src/deep/m.log"]),
        ("/*.log", ["b.log"]),
        ("data", ["data/x.bin", "data/keep.txt", "src/data/y.bin"]),
        ("data/", ["data/x.bin", "data/keep.txt", "src/data/y.bin"]),
        ("/data", ["data/x.bin", "data/keep.txt"]),
        ("data/*.bin", ["data/x.bin"]),
        ("**/data/*.bin", ["data/x.bin", "src/data/y.bin"]),
        ("src/**/m.*", ["src/m.py", "src/deep/m.log"]),
        ("src/**", ["src/data/y.bin", "src/m.py", "src/deep/m.log"]),
        ("*.txt\n!a.txt", ["data/keep.txt", "w[1].txt"]),
        ("data/*\n!data/keep.txt", ["data/x.bin"]),
        # A file below an excluded folder cannot be brought back.
        ("data/\n!data/keep.txt", ["data/x.bin", "data/keep.txt", "src/data/y.bin"]),
        ("?.log", ["b.log", "src/deep/m.log"]),
        ("[ab].*", ["a.txt", "b.log"]),
        ("[!a].log", ["b.log", "src/deep/m.log"]),
        ("w\\[1\\].txt", ["w[1].txt"]),
        ("a.txt   ", ["a.txt"]),
        ("a.txt/", []),
    ],
)
def test_rules(text: str, ignored: list[str]) -> None:
    assert [path for path in PATHS if path not in IgnoreRules(text).keep(PATHS)] == ignored
