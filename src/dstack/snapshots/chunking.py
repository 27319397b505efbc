"""Content-defined chunks: FastCDC cuts, BLAKE3 ids.

The algorithm, its gear table and its masks are written out in docs/formats/snapshots.md; golden vectors hold the
library behind `Chunker` to that text. Another library may stand in its place, another cut may not: equal files must
give equal chunks for ever, or nothing is stored once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import msgspec
from blake3 import blake3

from dstack.sdk.blobs import Buffer

if TYPE_CHECKING:
    from pyfastcdc import NormalizedChunking

ID_LENGTH: Final = 32


class ChunkerParameters(msgspec.Struct, frozen=True, array_like=True):
    """What decides the cuts; recorded in every root. Sizes in bytes.

    `normalization` is the level of the paper (Xia et al., "The Design of Fast Content-Defined Chunking", 2020);
    `seed` is xor-ed into the gear table.
    """

    algorithm: str = "fastcdc-2020"
    minimum: int = 256 * 1024
    average: int = 512 * 1024
    maximum: int = 2 * 1024 * 1024
    normalization: int = 1
    seed: int = 0


DEFAULT: Final = ChunkerParameters()


class Chunker:
    """Cuts one stream at a time; make one per thread."""

    def __init__(self, parameters: ChunkerParameters = DEFAULT) -> None:
        # Loaded by whom has a file to cut: small files are one chunk each, and the command line often has no other.
        from pyfastcdc import FastCDC

        # Another level than the library knows is a ValueError there.
        level = cast("NormalizedChunking", parameters.normalization)
        self.parameters = parameters
        self._fastcdc = FastCDC(
            parameters.average,
            min_size=parameters.minimum,
            max_size=parameters.maximum,
            normalized_chunking=level,
            seed=parameters.seed,
        )

    def cut(self, window: memoryview, *, final: bool) -> list[int]:
        """Lengths of the chunks at the start of `window`.

        Without `final`, what is left (less than the largest chunk) has to come again at the start of the next window:
        where it is cut depends on the bytes after it. With `final` the lengths add up to the window.
        """
        lengths: list[int] = []
        done = 0
        chunks = self._fastcdc.cut_buf(window)
        keep = 0 if final else self.parameters.maximum - 1
        while len(window) - done > keep:
            length = next(chunks).length
            lengths.append(length)
            done += length
        return lengths


def digest(data: Buffer) -> bytes:
    """BLAKE3, 32 bytes: the id of a chunk, an object or a pack."""
    return blake3(data).digest()
