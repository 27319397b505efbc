"""CONTRIBUTING.md is a map of what is there: nothing it names is missing, and no package is missing from it."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

from tests.docs.markdown import ROOT, inline_code

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "src" / "dstack"
ROW = re.compile(r"^\| `([a-z_]+)(?:\.py)?` \|", re.MULTILINE)


def members(folder: Path) -> set[str]:
    """Names of the packages and public modules directly in `folder`."""
    names = {path.parent.name for path in folder.glob("*/__init__.py")}
    return names | {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}


def test_every_package_has_its_row_in_the_order_of_the_contract() -> None:
    table = PAGE.split("| Package |", 1)[1].split("\n\n", 1)[0]
    rows = ROW.findall(table)
    assert set(rows) == members(PACKAGE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = next(c for c in project["tool"]["importlinter"]["contracts"] if c["id"] == "layers")
    order = [name.strip("() ") for layer in contract["layers"] for name in layer.split("|")]
    assert rows == order


def test_every_part_of_the_server_is_described() -> None:
    table = PAGE.split("| In `server` |", 1)[1].split("\n\n", 1)[0]
    assert set(ROW.findall(table)) == members(PACKAGE / "server")


def test_every_kind_of_test_is_described() -> None:
    table = PAGE.split("| Folder |", 1)[1].split("\n\n", 1)[0]
    folders = {path.parent.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").glob("*/**/test_*.py")}
    assert folders <= set(re.findall(r"^\| `tests/(\w+)` \|", table, re.MULTILINE))


def test_every_file_that_is_named_exists() -> None:
    missing = [
        f"CONTRIBUTING.md:{line}: {code}"
        for line, code in inline_code(PAGE)
        if re.fullmatch(r"[\w./-]+(/|\.py|\.in|\.toml)", code)
        and not any((base / code).exists() for base in (ROOT, PACKAGE, PACKAGE / "server"))
    ]
    assert not missing, "\n".join(missing)


def test_what_is_to_be_changed_is_where_the_page_says() -> None:
    """The names that "How to add …" sends people to."""
    for file, name in (
        ("src/dstack/cli/commands.py", "COMMANDS"),
        ("src/dstack/providers/__init__.py", "bash"),
        ("src/dstack/domain/reasons.py", "SENTENCE"),
        ("src/dstack/domain/faults.py", "def rename"),
        ("tests/faults/points.py", "SERVER"),
        ("src/dstack/server/db/tables.py", "runs = "),
    ):
        assert f"`{file.removeprefix('src/dstack/')}" in PAGE, file
        assert name in (ROOT / file).read_text(encoding="utf-8"), file


def test_every_module_says_in_its_first_line_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in PACKAGE.rglob("*.py")
        if (tree := ast.parse(path.read_text(encoding="utf-8"))).body and not ast.get_docstring(tree)
    ]
    assert not silent, "\n".join(silent)


def test_each_service_has_one_place() -> None:
    table = PAGE.split("| About |", 1)[1].split("\n\n", 1)[0]
    named = re.findall(r"`([a-z_]+)`", table)
    assert sorted(named) == sorted(members(PACKAGE / "server" / "services"))
