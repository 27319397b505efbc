"""Which pack holds a chunk: the catalog in memory."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from dstack.snapshots.interfaces import ChunkLocation, PackIndex


class MemoryCatalog:
    """A dict. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunks: dict[bytes, ChunkLocation] = {}

    def missing(self, chunk_ids: Sequence[bytes]) -> set[bytes]:
        with self._lock:
            return {chunk_id for chunk_id in chunk_ids if chunk_id not in self._chunks}

    def locate(self, chunk_ids: Sequence[bytes]) -> Mapping[bytes, ChunkLocation]:
        with self._lock:
            return {chunk_id: self._chunks[chunk_id] for chunk_id in chunk_ids if chunk_id in self._chunks}

    def add(self, packs: Sequence[PackIndex]) -> None:
        with self._lock:
            for pack in packs:
                for entry in pack.chunks:
                    self._chunks.setdefault(
                        entry.chunk_id,
                        ChunkLocation(pack.pack_id, entry.offset, entry.stored_length, entry.raw_length, entry.codec),
                    )
