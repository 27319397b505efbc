"""A world with runs whose artifacts can be damaged, and what a check, a repair and a rebuild say of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete

from dstack.domain import faults
from dstack.domain.ports import SECOND, SystemClock
from dstack.server.db.engine import declare_write
from dstack.server.db.tables import chunks, leases
from dstack.server.services import uploads
from dstack.server.services.catalog import store_of
from dstack.server.services.heal import Healer
from dstack.server.services.named_leases import GC, UPKEEP, held
from dstack.server.services.repositories import RepositoryRef
from dstack.server.services.uploads import Upload, UploadedArtifact
from dstack.server.services.verify import Check, scope_of
from dstack.snapshots.capture import save
from dstack.snapshots.chunking import digest
from dstack.snapshots.interfaces import pack_key
from dstack.snapshots.packs import PackBuilder
from dstack.snapshots.restore import restore
from dstack.snapshots.spread import Spread
from dstack.snapshots.statcache import FileCache
from tests.support.ports import FakeClock
from tests.support.trees import described
from tests.support.world import REPOSITORY, World

HURT = declare_write("test.hurt")

Frames = list[dict[str, Any]]


class Shop:
    """A world with runs whose artifacts can be damaged."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.context = world.context
        self.folder = folder
        self.blobs = world.context.blobs

    def tree(self, name: str, *, files: int = 3) -> Path:
        """A folder of small files, a larger one and a folder in it; the same for the same name."""
        rng = random.Random(name)
        root = self.folder / name
        (root / "deep" / "er").mkdir(parents=True)
        for number in range(files):
            (root / f"{number}").write_bytes(rng.randbytes(3000))
        (root / "deep" / "er" / "model").write_bytes(rng.randbytes(700_000))
        return root

    def upload(self, root: Path, path: str = "out", cache: FileCache | None = None) -> str:
        """A finished run with this folder; its name. With a cache, what did not change since is not read."""
        later = FakeClock(SystemClock().now() + 3600 * SECOND)  # else files that were made just now are read again
        saved = save(root, store_of(self.context), cache=cache, clock=later)
        artifact = UploadedArtifact(path, saved.manifest_id.hex(), saved.stored)
        return uploads.upload(self.context, Upload((artifact,), RepositoryRef(REPOSITORY, "digits")), None).name

    def check(self, run: str | None = None, *, quick: bool = False, repair: bool = False) -> Frames:
        scope = self.world.read(lambda tx: scope_of(tx, self.context, run, None, None))
        with Spread() as spread:
            check = Check(self.context, scope, spread, quick=quick)
            found = list(check.frames())
            if repair and check.damages:
                with held(self.context, GC, UPKEEP) as lease:
                    found += Healer(self.context, spread, lease).repair()
                    found += check.touched()
            return [*found, {"t": "end", **check.summary()}]

    def rebuild(self) -> Frames:
        with Spread() as spread, held(self.context, GC, UPKEEP) as lease:
            return list(Healer(self.context, spread, lease).rebuild())

    def pack_of(self, chunk_id: bytes) -> bytes:
        [row] = self.world.rows(chunks, chunk_id=chunk_id)
        return bytes(row.pack_id)

    def damage(self, chunk_id: bytes) -> bytes:
        """Flip a bit of a chunk where it lies; the id of the pack."""
        [row] = self.world.rows(chunks, chunk_id=chunk_id)
        self.rewrite(bytes(row.pack_id), lambda data: flipped(data, row.offset + row.stored_length // 2))
        return bytes(row.pack_id)

    def rewrite(self, pack_id: bytes, change: Callable[[bytes], bytes]) -> None:
        key = pack_key(pack_id)
        data = self.blobs.get(key)
        self.blobs.delete([key])
        self.blobs.put(key, change(data))

    def hurt(self, statement: Any, values: Any = None) -> None:
        self.context.database.write(HURT, lambda tx: tx.execute(statement, values))

    def manifest(self, run: str) -> bytes:
        return bytes.fromhex(self.world.run(run)["jobs"][0]["artifacts"][0]["manifest_id"])

    def restored(self, run: str, name: str) -> Path:
        """The run's artifact, put into a folder. Raises DamagedStore."""
        target = self.folder / name
        restore(store_of(self.context), self.manifest(run), target)
        return target

    def reads_as(self, run: str, root: Path) -> bool:
        target = self.restored(run, f"again-{len(list(self.folder.iterdir()))}")
        return described(target) == described(root)


def of(frames: Frames, kind: str) -> Frames:
    return [frame for frame in frames if frame["t"] == kind]


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :]


def chunk_of(path: Path) -> bytes:
    """The id of a file's only chunk."""
    return digest(path.read_bytes())


def save_elsewhere(shop: Shop, root: Path) -> bytes:
    """A pack in the store with files of `root`, as a writer that was killed before it told the catalog leaves it."""
    builder = PackBuilder()
    for name in ("1", "0"):
        data = (root / name).read_bytes()
        builder.add(digest(data), data)
    sealed, index = builder.seal()
    shop.blobs.put(pack_key(index.pack_id), sealed)
    return index.pack_id


class Killed(BaseException):
    """The process ends here."""


def killed_at(shop: Shop, monkeypatch: pytest.MonkeyPatch, step: int, work: Callable[[], object] | None = None) -> bool:
    """Repair, and end before the step with this number: a write to the store, or one side of a commit."""
    left = step

    def count(*_: object) -> None:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1

    def counted(work: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*values: Any) -> Any:
            count()
            done = work(*values)
            count()
            return done

        return stepped

    with monkeypatch.context() as patched:
        patched.setattr(faults, "point", count)
        for name in ("put", "delete"):
            patched.setattr(shop.blobs, name, counted(getattr(shop.blobs, name)))
        try:
            work() if work is not None else shop.check(repair=True)
        except Killed:
            killed = True
        else:
            killed = False
    shop.hurt(delete(leases))  # the next server sees that who held it was killed
    return killed
