"""The registry of fault points is whole: each is proven somewhere, and no commit or rename goes past it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dstack
from tests.faults.points import COMMAND, ELSEWHERE, RUNNER, SERVER, STARTING

SOURCE = Path(dstack.__file__).parent
PACKAGES = ("server", "runner", "snapshots", "logs", "client", "cli", "embedded")
FUNCTIONS = {"os.replace", "os.rename", "os.renames", "os.link", "shutil.move"}
METHODS = {"rename", "commit"}

EXCEPTIONS = {
    "server/db/sqlite.py: writer.commit": "Database.write itself, between its two points",
    "server/db/sqlite.py: self.connection.commit": "what that is made of",
    "server/db/sqlite.py: self.raw.commit": "what that is made of",
    "runner/cloning.py: os.link": "gives a file of the cache, or out of it, its second name; begun again if cut off",
    "runner/overlay.py: (work / 'moved').rename": "tries what an overlay can do, in a folder of its own",
    "server/db/postgresql.py: transaction.commit": "Database.write itself, between its two points",
    "embedded/store_place.py: os.replace": "where the store is; test_move_store kills before and after each",
    "client/cache.py: os.replace": "what the command remembers to have shipped; without it, it looks again",
    "client/copying.py: part.rename": "a folder copied out of an artifact: nothing or all of it",
    "snapshots/naming.py: os.replace": "a file of a person's own: the old one or the new one; test_naming kills before",
    "snapshots/naming.py: os.link": "the same where nothing stands in its place",
    "client/environment.py: os.replace": "which version an interpreter has; without it, it asks again",
    "cli/complete.py: os.replace": "names to offer when no server runs; without them none are",
    "client/profiles.py: os.replace": "a person's settings: the old file or the new one, both whole",
    "client/pulled.py: own.replace": "what was pulled; without it nothing is overwritten unasked",
    "client/repository.py: os.link": "a random id of a repository, taken or found: both sides of it are whole",
    "server/services/sealing.py: os.link": "the key of the secrets, made or found: both sides of it are whole",
    "embedded/launch.py: os.replace": "puts the server's old log aside",
}
"""`file: call` → why it needs no point of its own."""


def test_every_declared_point_is_proven() -> None:
    """In a process of its own: other tests declare points, too."""
    program = (
        "import dstack.server.__main__, dstack.runner.__main__, dstack.cli.run, dstack.client.store\n"
        "import dstack.runner.inputs\n"  # only when a job has a large one
        "from dstack.domain.faults import POINTS\n"
        "print(*sorted(POINTS))"
    )
    declared = set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )
    elsewhere = {f"{name}:{side}" for name in ELSEWHERE for side in ("before", "after")}
    listed = set(STARTING | SERVER | RUNNER | COMMAND) | elsewhere
    assert declared == listed, "add a new point to tests/faults/points.py, with a test that kills there"


def test_nothing_is_committed_or_renamed_past_the_points() -> None:
    found = {f"{path.relative_to(SOURCE)}: {call}" for path in modules() for call in bypasses(path.read_text())}
    assert found == set(EXCEPTIONS), "use faults.rename and Database.write, or say here why not"


def test_the_check_sees_them() -> None:
    text = """
os.replace(a, b)
path.rename(target)
path.replace(target)
connection.commit()
"a".replace("b", "c")
structs.replace(found, kill=())
connection.execute("COMMIT")
"""
    assert list(bypasses(text)) == [
        "os.replace",
        "path.rename",
        "path.replace",
        "connection.commit",
        "connection.execute",
    ]


def modules() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((SOURCE / package).rglob("*.py"))


def bypasses(text: str) -> Iterator[str]:
    """Calls that make something durable or give it its name, in order."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name = ast.unparse(node.func)
        if any(isinstance(part, ast.Constant) and part.value == "COMMIT" for part in node.args):
            yield name
        # A string's `replace` has two arguments, a path's has one; those of structs have keywords.
        of_path = node.func.attr == "replace" and len(node.args) == 1 and not node.keywords
        if name in FUNCTIONS or (node.func.attr in METHODS and name != "faults.rename") or of_path:
            yield name
