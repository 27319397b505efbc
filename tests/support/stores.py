"""Snapshot stores that tests can look into, and clocks that make files old."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from dstack.sdk.blobs import Buffer
from dstack.snapshots.blobs.memory import MemoryBlobStore
from dstack.snapshots.catalog import MemoryCatalog
from dstack.snapshots.interfaces import ChunkLocation, PackIndex
from dstack.snapshots.store import SnapshotStore
from tests.support.ports import FakeClock


class RecordingBlobs(MemoryBlobStore):
    """Keeps a list of what was asked, shared with the catalog: ("put", key), ("get", key), ("sync", "")."""

    def __init__(self, log: list[tuple[str, object]]) -> None:
        super().__init__()
        self.log = log
        self.fetched: list[int] = []
        """Bytes of each `get`."""

    def put(self, key: str, data: Buffer | object) -> bool:
        self.log.append(("put", key))
        return super().put(key, data)  # pyright: ignore[reportArgumentType] - a Buffer or Path, as the base says

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        self.log.append(("get", key))
        data = super().get(key, offset=offset, length=length)
        self.fetched.append(len(data))
        return data

    def sync(self) -> None:
        self.log.append(("sync", ""))

    def damage(self, key: str, position: int, mask: int = 1) -> None:
        """Flip bits of one stored byte."""
        content, modified = self._blobs[key]
        changed = bytearray(content)
        changed[position] ^= mask
        self._blobs[key] = bytes(changed), modified


class RecordingCatalog(MemoryCatalog):
    """Records ("add", key of the pack) and ("missing", number of ids)."""

    def __init__(self, log: list[tuple[str, object]]) -> None:
        super().__init__()
        self.log = log

    def missing(self, chunk_ids: Sequence[bytes]) -> set[bytes]:
        self.log.append(("missing", len(chunk_ids)))
        return super().missing(chunk_ids)

    def add(self, packs: Sequence[PackIndex]) -> None:
        self.log.extend(("add", pack.pack_id) for pack in packs)
        super().add(packs)

    def forget(self, chunk_ids: Sequence[bytes]) -> None:
        for chunk_id in chunk_ids:
            del self._chunks[chunk_id]

    @property
    def chunks(self) -> Mapping[bytes, ChunkLocation]:
        return self._chunks


class RecordingStore(SnapshotStore):
    """A store in memory whose `log` tells what happened to it, in order."""

    def __init__(self) -> None:
        self.log: list[tuple[str, object]] = []
        self.memory = RecordingBlobs(self.log)
        self.catalog = RecordingCatalog(self.log)
        super().__init__(self.memory, self.catalog)

    def verbs(self) -> list[str]:
        return [verb for verb, _ in self.log]


def later(seconds: float = 3600.0) -> FakeClock:
    """A clock that is ahead of every file's times, so that files count as settled."""
    clock = FakeClock(time.time_ns() // 1000)
    clock.advance(seconds)
    return clock
