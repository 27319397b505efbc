"""Which chunks are compressed, and that nobody but the reader of packs can tell."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

import pytest
import zstandard

from dstack.sdk.blobs import Buffer
from dstack.snapshots import compression
from dstack.snapshots.capture import save
from dstack.snapshots.compression import PIECE, PIECES, SMALLEST, Compressor
from dstack.snapshots.packs import CODEC_STORED, CODEC_ZSTD
from dstack.snapshots.restore import restore
from tests.contract.snapshots import spec_reader
from tests.support.packs import verify_pack
from tests.support.stores import RecordingStore
from tests.support.trees import described

RNG = random.Random(7)
TEXT = b"".join(b"step %d loss %.5f\n" % (step, RNG.random()) for step in range(60_000))
FLOATS = struct.pack("300000f", *(RNG.gauss(0, 0.02) for _ in range(300_000)))
HALVES = b"".join(FLOATS[at + 2 : at + 4] for at in range(0, len(FLOATS), 4))
"""Weights in bfloat16: the upper halves."""


@pytest.mark.parametrize("raw", [TEXT, bytes(2_000_000), TEXT[:SMALLEST], bytes(SMALLEST)], ids=len)
def test_what_shrinks_is_one_zstd_frame(raw: bytes) -> None:
    stored, codec = Compressor().stored(raw)
    assert codec == CODEC_ZSTD
    assert len(stored) < len(raw) / 2
    assert zstandard.ZstdDecompressor().decompress(bytes(stored)) == raw


@pytest.mark.parametrize(
    "raw", [RNG.randbytes(2_000_000), FLOATS, HALVES, RNG.randbytes(SMALLEST), TEXT[: SMALLEST - 1], b""], ids=len
)
def test_what_does_not_is_left_as_it_is(raw: bytes) -> None:
    stored, codec = Compressor().stored(raw)
    assert (stored is raw, codec) == (True, CODEC_STORED)


def test_what_does_not_shrink_is_only_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a save of weights would take twice as long."""
    sizes: list[int] = []

    class Spy:
        def __init__(self, level: int) -> None:
            self.inner = real(level=level)

        def compress(self, data: Buffer) -> bytes:
            sizes.append(len(data))
            return self.inner.compress(data)

    real = zstandard.ZstdCompressor
    monkeypatch.setattr(zstandard, "ZstdCompressor", Spy)
    compressor = Compressor()
    for size in (PIECES * PIECE + 1, 262_144, 2_097_152):
        compressor.stored(RNG.randbytes(size))
    assert sizes == [PIECES * PIECE] * 3


def test_a_probe_looks_at_the_whole_length() -> None:
    """A header of text before weights, or zeros after them, is not taken for all of it."""
    weights = RNG.randbytes(1_000_000)
    for raw in (TEXT[:100_000] + weights, weights + bytes(100_000), bytes(PIECE) + weights + bytes(PIECE)):
        assert Compressor().stored(raw) == (raw, CODEC_STORED)


def test_compressed_chunks_are_saved_and_restored(tmp_path: Path) -> None:
    """Files, large and small, and the objects that list them; ids do not depend on it."""
    root = tmp_path / "root"
    (root / "many").mkdir(parents=True)
    (root / "log").write_bytes(TEXT)
    (root / "mixed").write_bytes(os.urandom(800_000) + TEXT + os.urandom(800_000))
    (root / "small").write_bytes(TEXT[:20_000])
    for number in range(300):
        (root / "many" / f"a rather long name of a file in a folder of many {number}").write_bytes(b"x")
    store = RecordingStore()
    saved = save(root, store)
    assert saved.stored < 1_600_000 + len(TEXT)
    codecs = {location.codec for location in store.catalog.chunks.values()}
    assert codecs == {CODEC_STORED, CODEC_ZSTD}
    (many,) = (at for at, data in store.read_chunks(store.catalog.chunks) if b"folder of many 299" in bytes(data))
    assert store.catalog.chunks[many].codec == CODEC_ZSTD
    restore(store, saved.manifest_id, tmp_path / "out")
    assert described(tmp_path / "out") == described(root)
    blobs = {info.key: store.blobs.get(info.key) for info in store.blobs.list("")}
    for key, data in blobs.items():
        verify_pack(key, data)
    spec_reader.restore(blobs, saved.manifest_id, tmp_path / "by the page")
    assert described(tmp_path / "by the page") == described(root)


def test_ids_are_the_same_with_and_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log").write_bytes(TEXT)
    with_it = save(tmp_path, RecordingStore())
    monkeypatch.setattr(compression, "SMALLEST", 1 << 30)
    without = save(tmp_path, RecordingStore())
    assert with_it.stored < without.stored / 2
    assert with_it._replace(stored=0) == without._replace(stored=0)
