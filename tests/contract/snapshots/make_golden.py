"""Makes the golden files. They change only with the version of the format: a difference is a bug, not an update.

Only the bytes of `sparse.pack` may change, with the version of zstd that compressed its chunks; its ids may not.

python tests/contract/snapshots/make_golden.py      # writes golden/ and says what it wrote
"""

from __future__ import annotations

import json
import os
import tempfile
import zlib
from pathlib import Path

import msgspec
import zstandard
from blake3 import blake3

from dstack.snapshots.blobs.memory import MemoryBlobStore
from dstack.snapshots.capture import save
from dstack.snapshots.catalog import MemoryCatalog
from dstack.snapshots.chunking import Chunker, digest
from dstack.snapshots.interfaces import ChunkEntry, pack_key
from dstack.snapshots.packs import CODEC_ZSTD, FOOTER, HEADER, TAIL
from dstack.snapshots.statcache import SavedSnapshot
from dstack.snapshots.store import SnapshotStore

GOLDEN = Path(__file__).parent / "golden"
TIME = 1_700_000_000_123_456_789
CHOSEN = [b"plain.txt", b"sub/deeper/f"]
STREAM = 6_000_001
"""Bytes of the stream that the chunk vectors cut."""


def stream(size: int = STREAM) -> bytes:
    """Bytes that anyone can make: BLAKE3 of "dstack golden vectors", extended."""
    return blake3(b"dstack golden vectors").digest(length=size)


def make_tree(root: Path) -> None:
    """One of everything that a snapshot keeps."""
    for folder in ("", "empty", "paged", "sub", "sub/deeper", "read-only"):
        (root / folder).mkdir()
    files: dict[bytes, tuple[bytes, int]] = {
        b"plain.txt": (b"plain\n", 0o644),
        b"empty.bin": (b"", 0o600),
        b"tool": (b"#!/bin/sh\n", 0o755),
        b"same": (b"plain\n", 0o644),
        b"white space\n\ttab": (b"odd name\n", 0o644),
        b"not-utf-8-\xff\xfe": (b"bytes\n", 0o640),
        "ümlaut".encode(): (b"utf-8\n", 0o644),
        b"private": (b"secret\n", 0o400),
        b"a" * 255: (b"longest name\n", 0o444),
        b"sub/deeper/f": (b"deep\n", 0o644),
        b"sub-file": (b"sorts before sub/\n", 0o644),
        b"read-only/f": (b"inside\n", 0o444),
    }
    borders = (name for number in range(10**6) if zlib.crc32(name := b"p%d" % number) % 256 == 0)
    for name in (*(next(borders) for _ in range(2)), b"p-first", b"p5-middle", b"q-last"):
        files[b"paged/" + name] = (name, 0o644)
    for path, (data, mode) in files.items():
        full = Path(os.fsdecode(bytes(root) + b"/" + path))
        full.write_bytes(data)
        full.chmod(mode)
    os.link(root / "plain.txt", root / "sub" / "hard-link")
    for name, target in {b"link": b"plain.txt", b"dangling": b"../../nowhere/\xff", b"to-folder": b"sub"}.items():
        os.symlink(target, bytes(root) + b"/" + name)
    (root / "sub").chmod(0o750)
    (root / "read-only").chmod(0o555)
    for parent, folders, names in os.walk(bytes(root), topdown=False):
        for name in sorted(names) + sorted(folders):
            os.utime(parent + b"/" + name, ns=(TIME, TIME), follow_symlinks=False)
    os.utime(root / "tool", ns=(-5, -5))
    root.chmod(0o755)
    os.utime(root, ns=(TIME, TIME))


def make_stream(root: Path) -> None:
    """One file of several chunks."""
    root.mkdir()
    (root / "stream").write_bytes(stream())
    (root / "stream").chmod(0o644)
    root.chmod(0o755)
    for path in (root / "stream", root):
        os.utime(path, ns=(TIME, TIME))


def make_sparse(root: Path) -> None:
    """What has holes, at borders of the largest blocks that file systems have, and what is compressed."""
    root.mkdir()
    block = 65_536
    with open(root / "sparse", "wb") as file:
        for number in (0, 100, 480):
            file.seek(number * block)
            file.write(stream(64) * (block // 64))
        file.truncate(763 * block)
    with open(root / "hole", "wb") as file:
        file.truncate(3 * block)
    (root / "log").write_bytes(b"".join(b"epoch %d, loss %d\n" % (n, n * n % 9973) for n in range(8_000)))
    for name in ("sparse", "hole", "log"):
        (root / name).chmod(0o644)
    root.chmod(0o755)
    for path in (*root.iterdir(), root):
        os.utime(path, ns=(TIME, TIME))


def save_tree(root: Path, paths: list[bytes] | None = None) -> tuple[SavedSnapshot, dict[str, bytes]]:
    """The snapshot, and the blobs of a store that holds nothing else."""
    blobs = MemoryBlobStore()
    saved = save(root, SnapshotStore(blobs, MemoryCatalog()), paths=paths)
    return saved, {info.key: blobs.get(info.key) for info in blobs.list("")}


def compressed_pack(raw: bytes) -> bytes:
    """A pack with one chunk of codec 1, as another writer would make it."""
    stored = zstandard.ZstdCompressor(level=3).compress(raw)
    index = msgspec.msgpack.encode([ChunkEntry(digest(raw), len(HEADER), len(stored), len(raw), CODEC_ZSTD)])
    return HEADER + stored + index + FOOTER.pack(digest(index), len(index), TAIL)


def _ids(saved: SavedSnapshot) -> dict[str, str]:
    return {"manifest_id": saved.manifest_id.hex(), "content_id": saved.content_id.hex()}


def main() -> None:
    os.umask(0o022)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "tree"
        make_tree(root)
        saved, blobs = save_tree(root)
        (pack,) = blobs.values()
        chosen, _ = save_tree(root, CHOSEN)
        big = Path(scratch) / "big"
        make_stream(big)
        large, _ = save_tree(big)
        make_sparse(Path(scratch) / "sparse")
        sparse, sparse_blobs = save_tree(Path(scratch) / "sparse")
        (sparse_pack,) = sparse_blobs.values()
        (root / "read-only").chmod(0o755)
    compressed = compressed_pack(b"compressible " * 100)
    (GOLDEN / "tree.pack").write_bytes(pack)
    (GOLDEN / "zstd.pack").write_bytes(compressed)
    (GOLDEN / "sparse.pack").write_bytes(sparse_pack)
    files = {"tree.pack": pack, "zstd.pack": compressed, "sparse.pack": sparse_pack}
    record = {
        "tree": _ids(saved),
        "chosen": _ids(chosen),
        "stream": {**_ids(large), "cuts": Chunker().cut(memoryview(stream()), final=True)},
        "sparse": _ids(sparse),
        "packs": {pack_key(digest(data)): name for name, data in files.items()},
    }
    (GOLDEN / "golden.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"wrote {sum(map(len, files.values()))} bytes of packs and the ids into {GOLDEN}")


if __name__ == "__main__":
    main()
