"""Which files a job's last lines complain of."""

from __future__ import annotations

import pytest

from dstack.client.missing import names_missed


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("FileNotFoundError: [Errno 2] No such file or directory: 'data/train.csv'", "data/train.csv"),
        ("cat: data/train.csv: No such file or directory", "data/train.csv"),
        ("cat: my data/train set.csv: No such file or directory", "my data/train set.csv"),
        ("ls: cannot access 'data/': No such file or directory", "data/"),
        ("bash: line 1: ./run.sh: No such file or directory", "./run.sh"),
        (
            "python3: can't open file '/h/attempts/0a/work/eval.py': [Errno 2] No such file",
            "/h/attempts/0a/work/eval.py",
        ),
        ("ModuleNotFoundError: No module named 'helpers'", "helpers.py"),
        ("ImportError: No module named a.b.c", "a/b/c.py"),
        ("ModuleNotFoundError: No module named 'a.b'", "a/__init__.py"),
        ("OSError: data/x.parquet does not exist", "data/x.parquet"),
        ('Error: Unable to open config file "conf/a.yaml"', "conf/a.yaml"),
        ("open data/a: ENOENT (no such file)", "data/a"),
        ("fatal: config.json not found!", "config.json"),
    ],
)
def test_a_name_is_found(line: str, name: str) -> None:
    assert name in names_missed(["epoch 1", line])


@pytest.mark.parametrize("line", ["", "epoch 1: loss 0.3", "ValueError: 'data/train.csv' has 3 columns"])
def test_other_lines_name_nothing(line: str) -> None:
    assert names_missed([line]) == []


def test_hostile_lines_take_no_time() -> None:
    names_missed([f"{'a:' * 50_000} not found", f"{chr(39) * 50_000} no such file", "No module named " + "a." * 500])
