"""The two things a snapshot store stands on: blobs (packs by key) and a catalog (which pack holds a chunk)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec


class ChunkEntry(msgspec.Struct, frozen=True, array_like=True):
    """Where one chunk lies within a pack. `codec`: 0 = stored, 1 = zstd. Lengths in bytes."""

    chunk_id: bytes
    offset: int
    stored_length: int
    raw_length: int
    codec: int = 0


class PackIndex(msgspec.Struct, frozen=True, array_like=True):
    """The index of one pack; `pack_id` is the BLAKE3 of the pack's bytes."""

    pack_id: bytes
    size: int
    chunks: tuple[ChunkEntry, ...]


class ChunkLocation(msgspec.Struct, frozen=True, array_like=True):
    pack_id: bytes
    offset: int
    stored_length: int
    raw_length: int
    codec: int = 0


class Catalog(Protocol):
    """chunk → pack index of one project: the database behind the server, a dict in tests."""

    def missing(self, chunk_ids: Sequence[bytes]) -> set[bytes]:
        """Those of `chunk_ids` that no pack holds yet."""
        ...

    def locate(self, chunk_ids: Sequence[bytes]) -> Mapping[bytes, ChunkLocation]:
        """Where each known chunk lies; unknown ids are left out."""
        ...

    def add(self, packs: Sequence[PackIndex]) -> None:
        """Record packs whose bytes are already stored. Repeating it changes nothing."""
        ...


def pack_key(pack_id: bytes) -> str:
    """The blob key of a pack: `packs/ab/abcdef…`."""
    name = pack_id.hex()
    return f"packs/{name[:2]}/{name}"
