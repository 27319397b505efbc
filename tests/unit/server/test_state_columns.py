"""Nothing but the functions that apply transitions, and those that make a row, writes a state column."""

from __future__ import annotations

import ast
import re
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
    "services/uploads.py": "the first states of an upload, which are its last",
    "services/runners.py": "the first state of a runner",
}
"""Files below the server's package that may name a state to write, and for what."""


_SQL = re.compile(r"\bSET\b[^;]*\bstate\s*=", re.IGNORECASE | re.DOTALL)


def writes_state(tree: ast.AST) -> Iterator[int]:
    """Lines that name `state` as something to write: `.values(state=…)`, `dict(state=…)`, a mapping with the key
    "state", `row["state"] = …`, and SQL that sets it."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="values") | ast.Name(id="dict")):
                found = "state" in {keyword.arg for keyword in node.keywords}
            case ast.Dict():
                found = any(isinstance(key, ast.Constant) and key.value == "state" for key in node.keys)
            case ast.Subscript(slice=ast.Constant(value="state"), ctx=ast.Store()):
                found = True
            case ast.Constant(value=str(text)):
                found = _SQL.search(text) is not None
            case _:
                continue
        if found:
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
    for text in (
        "update(t).values(state='done')",
        "update(t).values(dict(state='done'))",
        "execute(insert(t), {'id': 1, 'state': 'done'})",
        "row['state'] = 'done'",
        "text('UPDATE jobs SET version = 2, state = :new WHERE id = :id')",
    ):
        assert list(writes_state(ast.parse(text))) == [1], text
    for text in (
        "update(t).values(detail='done')",
        "select(t).where(t.c.state == row['state'])",
        "text('UPDATE jobs SET a = 1')",
    ):
        assert not list(writes_state(ast.parse(text))), text
