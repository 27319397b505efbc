"""Programs that write while they are saved, each in a process of its own and killed in the middle: nothing is torn."""

from __future__ import annotations

import queue
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from dstack.snapshots.live import LiveCapture, Snapshots
from dstack.snapshots.restore import restore
from tests.support.stores import RecordingStore
from tests.support.trees import described

PATIENCE = 60.0
"""Seconds until a test says that nothing came; never waited for when all is well."""
SNAPSHOTS = 5

WRITER = """
import os, shutil, struct, sys, time
from pathlib import Path
from blake3 import blake3
out = Path(sys.argv[1])

def state(step, size):
    data = step.to_bytes(8, "big") + blake3(b"%d" % step).digest(length=size)
    return data + blake3(data).digest()

def renamed(step):  # torch.save into a temporary file, then os.replace
    (out / "last.ckpt.tmp").write_bytes(state(step, 700_000))
    os.replace(out / "last.ckpt.tmp", out / "last.ckpt")

def folder(step):  # a folder made aside, renamed; the one before removed
    made = out / "tmp-checkpoint"
    made.mkdir()
    for name in ("model.safetensors", "optimizer.pt"):
        (made / name).write_bytes(state(step, 300_000))
    made.rename(out / f"checkpoint-{step}")
    shutil.rmtree(out / f"checkpoint-{step - 1}", ignore_errors=True)

def appended(step, file=[]):  # records that are appended and flushed
    if not file:
        file.append(open(out / "events.out.tfevents", "ab"))
    data = state(step, 20_000)
    file[0].write(struct.pack(">I", len(data)) + data)
    file[0].flush()

step = 0
while True:
    step += 1
    globals()[sys.argv[2]](step)
    time.sleep(0.02)  # or an event file grows by gigabytes while the machine is busy
"""


def assert_whole(data: bytes) -> int:
    """The step of a state that is as the writer made it."""
    assert blake3(data[:-32]).digest() == data[-32:]
    return int.from_bytes(data[:8], "big")


def records(data: bytes) -> Iterator[bytes]:
    """The whole records at the start of an event file; the last one may be on its way."""
    at = 0
    while at + 4 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if at + 4 + length > len(data):
            return
        yield data[at + 4 : at + 4 + length]
        at += 4 + length


def check(found: dict[str, bytes], how: str) -> int:
    """That nothing in a snapshot is torn; the newest step in it."""
    match how:
        case "renamed":
            return assert_whole(found["last.ckpt"]) if found.get("last.ckpt") else 0
        case "folder":
            steps = [
                assert_whole(data)
                for path, data in found.items()
                if path.startswith("checkpoint-") and path.endswith(("model.safetensors", "optimizer.pt"))
            ]
            return max(steps, default=0)
        case _:
            steps = [assert_whole(record) for record in records(found.get("events.out.tfevents", b""))]
            assert steps == list(range(1, len(steps) + 1))
            return len(steps)


@pytest.mark.parametrize("how", ["renamed", "folder", "appended"])
def test_no_snapshot_is_torn_and_the_last_one_is_what_is_there(tmp_path: Path, how: str) -> None:
    (tmp_path / "out").mkdir()
    store = RecordingStore()
    taken: queue.Queue[Snapshots] = queue.Queue()
    live = LiveCapture(tmp_path, ["out"], store, taken.put, quiet=0.05, max_interval=0.15, rescan=1.0)
    live.start()
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "out"), how])
    steps: list[int] = []
    try:
        while len(steps) < SNAPSHOTS:
            saved = taken.get(timeout=PATIENCE)["out"]
            target = tmp_path / "restored" / f"{len(steps)}"
            restore(store, saved.manifest_id, target)
            step = check(contents(target), how)
            if step:
                steps.append(step)
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait(PATIENCE)
        live.stop()
        live.join(PATIENCE)
    assert steps == sorted(steps)
    assert steps[-1] > steps[0]
    final = live.final()["out"]
    assert final.warnings == ()
    restore(store, final.manifest_id, tmp_path / "final")
    assert described(tmp_path / "final") == described(tmp_path / "out")
    assert check(contents(tmp_path / "final"), how) >= steps[-1]


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
