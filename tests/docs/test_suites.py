"""Suites that are meant for both databases run on both, and none of their tests may skip: it would prove nothing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.docs.markdown import ROOT

BOTH = ("tests/migration", "tests/property/lifecycle", "tests/integration/server")
ON_BOTH = {
    "tests/migration/test_schema.py::test_migrated_schema_is_the_modelled_one",
    "tests/migration/test_first.py::test_the_first_schema_has_what_the_design_lists",
    "tests/migration/test_upgrade.py::test_killed_migration_runs_again",
    "tests/property/lifecycle/test_apply.py::test_rows_survive_a_bad_world",
    "tests/integration/server/test_runs.py::test_a_run_goes_through_every_state",
}
"""Some of those that must be there with either database; the others of their files follow."""


def skips(text: str) -> Iterator[int]:
    """Lines of `pytest.skip`, `importorskip`, `xfail` and the marks of those names, and of a test that returns early on
    one of the databases: it would pass there without a word."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Attribute(attr="skip" | "skipif" | "importorskip" | "xfail" | "SkipTest"):
                yield node.lineno
            case ast.If() if "dialect" in ast.unparse(node.test) and isinstance(node.body[-1], ast.Return):
                yield node.lineno
            case _:
                pass


@pytest.mark.parametrize("folder", [*BOTH, "tests/support"])
def test_they_never_skip(folder: str) -> None:
    files = [*(ROOT / folder).rglob("*.py"), ROOT / "tests" / "conftest.py"]
    found = [f"{path.relative_to(ROOT)}:{line}" for path in files for line in skips(path.read_text(encoding="utf-8"))]
    assert found == []


def test_they_run_on_both() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *BOTH]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    collected = re.findall(r"^(tests/\S+?)(?:\[(.*)\])?$", done.stdout, re.MULTILINE)
    on = {kind: {name for name, case in collected if kind in case.split("-")} for kind in ("sqlite", "postgresql")}
    assert on["sqlite"] >= ON_BOTH
    assert on["sqlite"] == on["postgresql"]


def test_the_check_sees_them() -> None:
    text = "import pytest\npytest.skip('no')\n@pytest.mark.skipif(True, reason='')\ndef test(): pass\n"
    assert list(skips(text)) == [2, 3]
    assert list(skips("def test(db):\n    if db.dialect != 'sqlite':\n        return\n")) == [2]
