"""Everything that can stand in a folder, through a store on the disk (F29, F30, F32)."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from dstack.snapshots.blobs.local import LocalBlobStore
from dstack.snapshots.capture import save
from dstack.snapshots.catalog import MemoryCatalog
from dstack.snapshots.restore import restore
from dstack.snapshots.store import SnapshotStore
from tests.contract.snapshots import spec_reader
from tests.support.packs import rebuild
from tests.support.trees import described

NAMES = [
    b"white space", b"new\nline", b"-rf", "\U0001f40e".encode(), "\u00e9".encode(), "e\u0301".encode(), b"x" * 255,
    b"\xff\xfe\x80", b"CASE", b"case", b"CON", b"nul.txt", b"trailing. ", b"back\\slash", b"*?", b"\x01\x7f",
]  # fmt: skip


def make(root: Path) -> None:
    (root / "empty" / "within" / "another").mkdir(parents=True)
    (root / "0 bytes").write_bytes(b"")
    (root / "no rights").write_bytes(b"x")
    (root / "no rights").chmod(0o400)
    (root / "many links").write_bytes(b"linked" * 10_000)
    for number in range(3):
        os.link(root / "many links", root / "empty" / f"link {number}")
    (root / "loop").symlink_to("loop")
    (root / "up").symlink_to("..")
    (root / "etc").symlink_to("/etc")
    (root / "nowhere").symlink_to("not/there")
    (root / "names").mkdir()
    for name in NAMES:
        with open(bytes(root) + b"/names/" + name, "wb") as file:
            file.write(name * 3)
    with open(root / "sparse", "wb") as file:
        file.truncate(50 << 20)
        file.seek(20 << 20)
        file.write(b"in the middle")
    for path in sorted(root.rglob("*")):
        if not path.is_symlink():
            os.utime(path, ns=(10**18, 10**18 + 123_456_789))


def test_comes_back_exactly_or_is_named(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    make(root)
    expected = described(root)
    os.mkfifo(root / "a pipe")
    special = {"a pipe: not saved, it is a named pipe", "a socket: not saved, it is a socket"}
    if os.geteuid() == 0:
        os.mknod(root / "a device", 0o20666, os.makedev(1, 3))
        special.add("a device: not saved, it is a device")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(root / "a socket"))
        blobs = LocalBlobStore(tmp_path / "store")
        saved = save(root, SnapshotStore(blobs, MemoryCatalog()))
    assert set(saved.warnings) == special
    catalog = MemoryCatalog()
    rebuild(blobs, catalog)
    restore(SnapshotStore(blobs, catalog), saved.manifest_id, tmp_path / "out")
    assert described(tmp_path / "out") == expected
    assert (tmp_path / "out" / "sparse").stat().st_blocks * 512 < 1 << 20
    spec_reader.restore(
        {info.key: blobs.get(info.key) for info in blobs.list("")}, saved.manifest_id, tmp_path / "page"
    )
    assert described(tmp_path / "page") == expected


@pytest.mark.parametrize("files", [0, 1])
def test_a_folder_of_nothing(tmp_path: Path, files: int) -> None:
    (tmp_path / "in").mkdir()
    for number in range(files):
        (tmp_path / "in" / f"{number}").write_bytes(b"")
    store = SnapshotStore(LocalBlobStore(tmp_path / "store"), MemoryCatalog())
    saved = save(tmp_path / "in", store)
    assert (saved.files, saved.size) == (files, 0)
    restore(store, saved.manifest_id, tmp_path / "out")
    assert described(tmp_path / "out") == described(tmp_path / "in")
