"""Whether a chunk is worth compressing, told by a look at a few pieces of it.

Weights of models, images and archives gain next to nothing and would cost as much time as everything else of a save:
they are stored as they are. Text, logs, tables and zeros shrink to a fraction. docs/design/snapshots.md has figures.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from dstack.sdk.blobs import Buffer
from dstack.snapshots.packs import CODEC_STORED, CODEC_ZSTD

if TYPE_CHECKING:
    from zstandard import ZstdCompressor

SMALLEST: Final = 8 * 1024
"""Bytes; below it a frame costs more time, writing and reading, than the room is worth."""
LEVEL: Final = 1
PIECES: Final = 4
PIECE: Final = 4 * 1024
"""The probe compresses PIECES of PIECE bytes, spread over the chunk: 10 µs beside the 600 µs that the chunk takes."""
PAYS: Final = 0.75
"""The largest share of its size that a chunk may keep: weights in bfloat16 keep 0.78 of it, in float32 0.93."""


class Compressor:
    """Gives chunks the form in which they are stored. Safe for threads."""

    def __init__(self) -> None:
        self._thread = threading.local()

    def stored(self, raw: Buffer) -> tuple[Buffer, int]:
        """The bytes to store for these, and their codec."""
        size = len(raw)
        if size < SMALLEST:
            return raw, CODEC_STORED
        zstd = self._zstd()
        if size > PIECES * PIECE:
            probe = _probe(memoryview(raw))
            if len(zstd.compress(probe)) > len(probe) * PAYS:
                return raw, CODEC_STORED
        frame = zstd.compress(raw)
        return (frame, CODEC_ZSTD) if len(frame) <= size * PAYS else (raw, CODEC_STORED)

    def _zstd(self) -> ZstdCompressor:
        """This thread's; loaded by whom has something to compress."""
        found: ZstdCompressor | None = getattr(self._thread, "zstd", None)
        if found is None:
            from zstandard import ZstdCompressor

            found = self._thread.zstd = ZstdCompressor(level=LEVEL)
        return found


def _probe(view: memoryview) -> bytes:
    step = (len(view) - PIECE) // (PIECES - 1)
    return b"".join([view[start : start + PIECE] for start in range(0, step * PIECES, step)])
