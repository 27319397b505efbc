"""Garbage to collect: runs made of files, and what a collection says, frees and leaves whole."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from dstack.server.db.engine import declare_write
from dstack.server.services import uploads
from dstack.server.services.catalog import store_of
from dstack.server.services.gc import Wanted, collect
from dstack.server.services.repositories import RepositoryRef
from dstack.server.services.uploads import Upload, UploadedArtifact
from dstack.snapshots.capture import save
from dstack.snapshots.restore import restore
from tests.support.world import REPOSITORY, World

FORGET = declare_write("test-gc-forget")
DAY = 86400.0
LATER = 3 * DAY
JOB = """
workflows:
  - {name: train, provider: bash, commands: ["true"], artifacts: [out], deps: ["DEP"]}
"""


def uploaded(world: World, folder: Path, files: dict[str, bytes], **more: Any) -> str:
    """The name of a run that was made of these files."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    found = save(folder, store_of(world.context))
    artifact = UploadedArtifact("out", found.manifest_id.hex(), found.stored)
    return uploads.upload(world.context, Upload((artifact,), RepositoryRef(REPOSITORY, "digits"), **more), None).name


def noise(seed: int, size: int = 100_000) -> bytes:
    return random.Random(seed).randbytes(size)


def gathered(world: World, **wanted: Any) -> dict[str, Any]:
    """The end of a collection that frees."""
    frames = list(collect(world.context, Wanted(dry_run=False, **wanted)))
    assert frames[-1]["t"] == "end", frames[-1]
    return frames[-1]


def foreseen(world: World, **wanted: Any) -> dict[str, Any]:
    return list(collect(world.context, Wanted(dry_run=True, **wanted)))[-1]


def stored(world: World) -> int:
    """Bytes in the store."""
    return sum(info.size for info in world.context.blobs.list("packs/"))


def is_whole(world: World, run: str, target: Path, files: dict[str, bytes]) -> bool:
    [artifact] = world.run(run)["jobs"][0]["artifacts"]
    restore(store_of(world.context), bytes.fromhex(artifact["manifest_id"]), target)
    return {path.name: path.read_bytes() for path in target.iterdir()} == files
