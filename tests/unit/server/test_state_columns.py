"""Nothing but the functions that apply transitions, and those that make a row, writes a state column."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import dstack.server

ALLOWED = {
    "services/apply.py": "jobs, steps and runs",
    "services/attempt_rows.py": "their attempts",
    "services/rows.py": "the statements that `apply` runs",
    "services/runner_moves.py": "runners",
    "services/create.py": "first states of steps and jobs",
    "services/runs.py": "the first state of a run",
    "services/runners.py": "the first state of a runner",
}
"""Files below the server's package that may name a state to write, and for what."""


def writes_state(tree: ast.AST) -> Iterator[int]:
    """Lines with `.values(state=…)` or a mapping with the key "state" whose value is not a column's name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            named = {keyword.arg for keyword in node.keywords}
            if node.func.attr == "values" and "state" in named:
                yield node.lineno
        if isinstance(node, ast.Dict) and any(
            isinstance(key, ast.Constant) and key.value == "state" for key in node.keys
        ):
            yield node.lineno


def test_only_the_appliers_write_states() -> None:
    root = Path(dstack.server.__file__).parent
    found = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if any(writes_state(ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert found - ALLOWED.keys() == set()
    assert "services/runner_moves.py" in found


def test_the_check_sees_what_it_looks_for() -> None:
    assert list(writes_state(ast.parse("update(t).values(state='done')"))) == [1]
    assert list(writes_state(ast.parse("execute(insert(t), {'id': 1, 'state': 'done'})"))) == [1]
    assert not list(writes_state(ast.parse("update(t).values(detail='done')")))
