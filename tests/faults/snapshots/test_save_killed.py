"""A save that is killed at any of its renames: what the catalog knows is whole, and the next save is complete."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dstack.domain import faults
from dstack.snapshots.blobs.local import TEMPORARY, LocalBlobStore
from dstack.snapshots.capture import save
from dstack.snapshots.catalog import MemoryCatalog
from dstack.snapshots.restore import restore
from dstack.snapshots.statcache import FileCache
from dstack.snapshots.store import SnapshotStore
from tests.support.packs import rebuild, verify_pack
from tests.support.trees import described

POINTS = [
    "store.put:before", "store.put:after", "store.sync:before", "store.sync:after", "statcache.flush:before",
    "statcache.flush:after",
]  # fmt: skip
SAVE = """
import sys
from pathlib import Path
from dstack.snapshots import writer
from dstack.snapshots.blobs.local import LocalBlobStore
from dstack.snapshots.capture import save
from dstack.snapshots.catalog import MemoryCatalog
from dstack.snapshots.statcache import FileCache
from dstack.snapshots.store import SnapshotStore
writer.PACK_TARGET = writer.PENDING_BYTES = 200_000
root = Path(sys.argv[1])
save(root / "in", SnapshotStore(LocalBlobStore(root / "store"), MemoryCatalog()), cache=FileCache(root / "cache"))
"""


def save_in_a_process(root: Path, **environment: str) -> int:
    done = subprocess.run([sys.executable, "-c", SAVE, str(root)], env={**os.environ, **environment}, check=False)
    return done.returncode


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for number in range(12):
        (tmp_path / "in" / "sub" / f"{number}").write_bytes(os.urandom(60_000))
    return tmp_path


@pytest.mark.parametrize(("name", "count"), [*((name, 1) for name in POINTS), *((name, 3) for name in POINTS[:2])])
def test_killed_at_a_rename(root: Path, name: str, count: int) -> None:
    assert save_in_a_process(root, DSTACK_FAULT=f"{name}:{count}") == -signal.SIGKILL
    blobs, catalog = LocalBlobStore(root / "store"), MemoryCatalog()
    for info in blobs.list(""):
        verify_pack(info.key, blobs.get(info.key))
    before = rebuild(blobs, catalog)
    store = SnapshotStore(blobs, catalog)
    saved = save(root / "in", store, cache=FileCache.load(root / "cache"))
    restore(store, saved.manifest_id, root / "out")
    assert described(root / "out") == described(root / "in")
    if name == "store.put:after":
        assert before == count, "a pack that was renamed counts"
    if not name.startswith("store.put"):
        assert saved.stored == 0, "everything was stored before it was synced, and before the cache was written"


def test_every_point_of_a_save_is_reached(root: Path) -> None:
    log = root / "log"
    assert save_in_a_process(root, DSTACK_FAULT_LOG=str(log)) == 0
    assert set(log.read_text().split()) == set(POINTS) <= faults.POINTS
    left = [path.name for path in root.rglob("*") if path.name.startswith(TEMPORARY) or path.suffix == ".tmp"]
    assert left == []
