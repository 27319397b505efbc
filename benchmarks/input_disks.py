"""How soon a job starts whose large input is on the machine already, by file system and way.

`python -m benchmarks.input_disks [--gigabytes 10] [--files 20000] [--folder DIR] [--disk KIND …] [--way WAY …]`, by
dstack's own Python, as root; there must be room for two to three times the input. What is timed is the set-up of an
attempt, from the assignment to the moment at which its process can be started; a whole `dstack run` is in the row
`input-10g`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dstack.domain.ports import SystemClock
from dstack.protocol import messages
from dstack.runner.folders import folder_of, forget
from dstack.runner.settings import Settings
from dstack.runner.setup import set_up
from dstack.runner.workshop import Workshop
from dstack.sdk.provider import JobSpec
from dstack.snapshots.blobs.local import LocalBlobStore
from dstack.snapshots.capture import save
from dstack.snapshots.catalog import MemoryCatalog
from dstack.snapshots.materialise import Materialiser
from dstack.snapshots.store import SnapshotStore

WAYS = {"": ("overlay", "copy", "direct"), "xfs": ("reflink", "overlay"), "btrfs": ("reflink", "overlay")}
STAMP = 64 << 10
"""A random buffer is made anew this often, so that no chunk is stored twice."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.input_disks")
    parser.add_argument("--gigabytes", type=float, default=10)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--disk", nargs="*", choices=["", *WAYS], default=list(WAYS))
    parser.add_argument("--way", nargs="*", default=["reflink", "overlay", "copy", "direct"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dstack-inputs-", dir=options.folder) as scratch:
        sys.stdout.write(table(Path(scratch), int(options.gigabytes * 1e9), options.files, options.disk, options.way))


def table(scratch: Path, size: int, files: int, disks: list[str], ways: list[str]) -> str:
    """Markdown: a row for each input, disk and way; seconds, and the bytes that the second job took on its disk."""
    lines = [
        "| input | disk | way | first job | second job | bytes it took | its end |\n|---|---|---|---|---|---|---|\n"
    ]
    for what, make in (
        (f"{size / 1e9:g} GB in 10 files", lambda folder: large(folder, size)),
        (f"{files:,} files of 4 KiB", lambda folder: many(folder, files)),
    ):
        store = SnapshotStore(LocalBlobStore(scratch / "store"), MemoryCatalog())
        make(scratch / "made")
        manifest_id = save(scratch / "made", store).manifest_id
        shutil.rmtree(scratch / "made")
        for kind in disks:
            for way in (way for way in WAYS[kind] if way in ways):
                with disk(kind, scratch) as home:
                    found = asyncio.run(measured(home / "home", store, manifest_id, way))
                    shutil.rmtree(home / "home")
                first, second, took, end = found
                name = kind or kind_of(scratch)
                lines.append(f"| {what} | {name} | {way} | {first:.2f} s | {second:.3f} s | {took:,} | {end:.3f} s |\n")
        shutil.rmtree(scratch / "store")
    return "".join(lines)


async def measured(home: Path, store: SnapshotStore, manifest_id: bytes, way: str) -> tuple[float, float, int, float]:
    """Seconds of the first and of the second set-up, what the second took on the disk, and seconds of its end."""
    none: Any = None
    settings = Settings(home=home, inputs_way=way, inputs_size=1 << 40)
    (settings.folder / "attempts").mkdir(parents=True)
    shop = Workshop(
        settings=settings, clock=SystemClock(), executor=none, environments=none, slots=none, events=none, logs=none,
        secrets=none, watch=none, store=store, materialiser=Materialiser(store),
    )  # fmt: skip
    first, folder, attempt_id = await begun(shop, manifest_id)
    forget(folder)
    shop.release_inputs(attempt_id)
    if shop.kept_inputs is not None:
        await shop.kept_inputs.cache.tend()
    before = free(home)
    second, folder, attempt_id = await begun(shop, manifest_id)
    took = before - free(home)
    start = time.perf_counter()
    forget(folder)
    return first, second, max(0, took), time.perf_counter() - start


async def begun(shop: Workshop, manifest_id: bytes) -> tuple[float, Path, uuid.UUID]:
    given = messages.InputRef(path="data", manifest_id=manifest_id, run_name="some-run-1", job_name="make")
    assignment = messages.Assignment(
        attempt_id=uuid.uuid4(), number=1, job_id=uuid.uuid4(), run_name="some-run-2", workflow="use",
        job_name="use", project="main", spec=JobSpec(name="use", commands=("true",)), inputs=(given,),
    )  # fmt: skip
    folder = folder_of(shop.settings, assignment.attempt_id)
    start = time.perf_counter()
    folder.mkdir(mode=0o700)
    await set_up(shop, assignment, folder, ())
    return time.perf_counter() - start, folder, assignment.attempt_id


def free(folder: Path) -> int:
    os.sync()
    found = os.statvfs(folder)
    return found.f_bfree * found.f_frsize


def kind_of(folder: Path) -> str:
    found = subprocess.run(["df", "--output=fstype", folder], capture_output=True, text=True, check=True)
    return found.stdout.split()[-1]


@contextmanager
def disk(kind: str, scratch: Path) -> Iterator[Path]:
    """A new file system in a sparse file, or the folder itself."""
    mounted = scratch / "mounted"
    mounted.mkdir(exist_ok=True)
    if not kind:
        yield mounted
        return
    image = scratch / "image"
    with open(image, "wb") as file:
        file.truncate(200 << 30)
    subprocess.run([f"mkfs.{kind}", "-q", image], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", mounted], check=True)
        image.unlink()


def large(folder: Path, size: int) -> None:
    folder.mkdir()
    block = bytearray(os.urandom(8 << 20))
    for number in range(10):
        with open(folder / f"part-{number}", "wb") as file:
            for at in range(0, size // 10, len(block)):
                for offset in range(0, len(block), STAMP):
                    block[offset : offset + 16] = os.urandom(16)
                file.write(memoryview(block)[: size // 10 - at])


def many(folder: Path, files: int) -> None:
    for number in range(files):
        parent = folder / f"{number // 200}"
        parent.mkdir(parents=True, exist_ok=True)
        (parent / str(number)).write_bytes(os.urandom(4096))


if __name__ == "__main__":
    main()
