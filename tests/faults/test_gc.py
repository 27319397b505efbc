"""kill -9 at every step of a collection of garbage (F27): nothing that somebody refers to is lost, and the next one
frees what the first did not. And what a person sees: deleted runs give back their bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select

from dstack.server.app import build_context
from dstack.server.db.engine import declare_write
from dstack.server.db.tables import artifacts
from dstack.server.services import delete, uploads
from dstack.server.services.catalog import store_of
from dstack.server.services.context import Context
from dstack.server.services.gc import Wanted, collect
from dstack.server.services.repositories import RepositoryRef
from dstack.server.services.uploads import Upload, UploadedArtifact
from dstack.server.settings import Settings
from dstack.snapshots.capture import save
from dstack.snapshots.restore import restore
from tests.faults.home import Home

OLD = declare_write("test-gc-old-snapshots")
AT_ONCE: dict[str, Any] = {"gc_grace": 0.0, "gc_asked_to": 0.0, "gc_condemned": 0.0}
STEPS = {
    "commit:leases.take": 1,
    "commit:retention.thin": 1,
    "commit:gc.sweep": 2,
    "commit:gc.condemn": 2,
    "commit:gc.move": 1,
    "commit:gc.adopt": 1,
    "commit:gc.remove": 1,
    "commit:leases.release": 1,
}
"""How many turns of each are killed at: objects go in the first sweep, pieces of files in the second."""
POINTS = [
    f"{name}:{side}:{turn}"
    for name, count in STEPS.items()
    for side in ("before", "after")
    for turn in range(1, count + 1)
]
ORPHAN = "00" * 32
COLLECT = """
import sys
from pathlib import Path
from dstack.server.app import build_context
from dstack.server.services.gc import Wanted, collect
from dstack.server.settings import Settings
settings = Settings(home=Path(sys.argv[1]), local_runner=False, gc_grace=0.0, gc_asked_to=0.0, gc_condemned=0.0)
list(collect(build_context(settings), Wanted(dry_run=False)))
"""


@contextmanager
def opened(home: Path) -> Iterator[Context]:
    context = build_context(Settings(home=home, local_runner=False, **AT_ONCE))
    try:
        yield context
    finally:
        context.database.close()
        context.logs.close()


def uploaded(context: Context, folder: Path, files: dict[str, bytes]) -> tuple[str, bytes]:
    """The name of the run, and what it refers to."""
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    found = save(folder, store_of(context))
    artifact = UploadedArtifact("out", found.manifest_id.hex(), found.stored)
    made = uploads.upload(context, Upload((artifact,), RepositoryRef("here", "here")), None)
    return made.name, found.manifest_id


class Litter:
    """A home with a run that stays, and every kind of garbage."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        shared = os.urandom(60_000)
        self.files = {"shared": shared, "other": os.urandom(70_000)}
        with opened(self.home) as context:
            doomed = [
                uploaded(context, folder / "a", {"shared": shared, "own": os.urandom(200_000)})[0],
                uploaded(context, folder / "b", {"x": os.urandom(90_000)})[0],
            ]
            _, self.manifest_id = uploaded(context, folder / "c", self.files)
            context.database.write(OLD, self._age)
            delete.delete(context, doomed, force=False, actor=None)
        orphan = self.home / "server" / "store" / "packs" / ORPHAN[:2] / ORPHAN
        orphan.parent.mkdir(parents=True, exist_ok=True)
        orphan.write_bytes(b"cut off")
        os.utime(orphan, (1e9, 1e9))

    def _age(self, tx: Any) -> None:
        """Give the run earlier snapshots that the rules let go."""
        query = select(artifacts).where(artifacts.c.manifest_id == self.manifest_id)
        row = dict(tx.execute(query).mappings().one())
        ids = sorted([type(row["id"])(int=number) for number in range(1, 6)])
        tx.execute(insert(artifacts), [{**row, "id": each, "live": True, "taken_at": 10**12} for each in ids])

    def assert_kept(self, context: Context, target: Path) -> None:
        restore(store_of(context), self.manifest_id, target)
        assert {path.name: path.read_bytes() for path in target.iterdir()} == self.files


@pytest.fixture(scope="module")
def litter(tmp_path_factory: pytest.TempPathFactory) -> Litter:
    return Litter(tmp_path_factory.mktemp("litter"))


@pytest.mark.parametrize("point", POINTS)
def test_killed(litter: Litter, tmp_path: Path, point: str) -> None:
    home = tmp_path / "home"
    shutil.copytree(litter.home, home)
    child = subprocess.run(
        [sys.executable, "-c", COLLECT, str(home)],
        env=os.environ | {"DSTACK_FAULT": point},
        capture_output=True,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    with opened(home) as context:
        litter.assert_kept(context, tmp_path / "first")
        assert list(collect(context, Wanted(dry_run=False)))[-1]["t"] == "end"
        litter.assert_kept(context, tmp_path / "second")
        left = {info.key.rpartition("/")[2]: info.size for info in context.blobs.list("packs/")}
        assert ORPHAN not in left
        assert sum(left.values()) < 140_000, "60,000 and 70,000 bytes are needed"
        end = list(collect(context, Wanted(dry_run=True)))[-1]
        assert (end["why"], end["snapshots"], end["waiting"]["packs"]) == ({}, 0, 0)


def test_what_a_person_deletes_gives_back_its_bytes(home: Home) -> None:
    home.environment |= {f"DSTACK_SERVER_{name.upper()}": str(value) for name, value in AT_ONCE.items()}
    folder = home.repo / "data"
    folder.mkdir()
    names: list[str] = []
    for _ in range(2):
        (folder / "file").write_bytes(os.urandom(300_000))
        names.append(json.loads(home.types("artifacts", "upload", "data", "--json").stdout)[0]["name"])
    content = (folder / "file").read_bytes()
    home.types("rm", "-y", names[0])
    before = store(home)
    [would] = json.loads(home.types("gc", "--json").stdout)
    assert store(home) == before, "a dry run changes nothing"
    assert (len(before), would["why"]["unreferenced"]["packs"]) == (2, 1)
    told = home.types("gc", "-y").stderr
    assert "deleted." in told
    assert (len(store(home)), sum(before.values()) - sum(store(home).values()) > 290_000) == (1, True)
    home.types("artifacts", "download", names[1], "-o", str(home.root / "got"))
    assert (home.root / "got" / "data" / "file").read_bytes() == content
    assert "nothing to free" in home.types("gc").stderr


def store(home: Home) -> dict[str, int]:
    """Packs and their sizes."""
    found = (home.folder / "server" / "store" / "packs").glob("*/*")
    return {path.name: path.stat().st_size for path in found if not path.name.startswith(".tmp-")}
