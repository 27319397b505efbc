"""Saves and reads between whose every two calls others go on, and blobs that are dated by the test's clock."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dstack.sdk.blobs import Buffer
from dstack.server.services.catalog import catalog_of
from dstack.snapshots.blobs.memory import MemoryBlobStore
from dstack.snapshots.interfaces import ChunkLocation, PackIndex
from dstack.snapshots.store import SnapshotStore
from tests.support.ports import FakeClock

if TYPE_CHECKING:
    from tests.property.server.test_gc import GcMachine


class Blobs(MemoryBlobStore):
    """Dates blobs by the world's clock."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock

    def put(self, key: str, data: Buffer | Path) -> bool:
        made = super().put(key, data)
        if made:
            self._blobs[key] = self._blobs[key][0], self._clock.now()
        return made


class CutOff(Exception):
    """The process that saves ends here."""


class Interleaved:
    """Catalog and blobs of one who saves or reads, between whose every two calls others go on."""

    def __init__(self, machine: GcMachine, turns: Iterator[int], ends_after: int | None = None) -> None:
        self._machine = machine
        self._catalog = catalog_of(machine.world.context)
        self._blobs = machine.world.context.blobs
        self._turns = turns
        self._lock = threading.Lock()
        self._left = ends_after

    def missing(self, chunk_ids: Sequence[bytes]) -> set[bytes]:
        return self._between(lambda: self._catalog.missing(chunk_ids))

    def locate(self, chunk_ids: Sequence[bytes]) -> Mapping[bytes, ChunkLocation]:
        return self._between(lambda: self._catalog.locate(chunk_ids))

    def add(self, packs: Sequence[PackIndex]) -> None:
        self._between(lambda: self._catalog.add(packs))

    def put(self, key: str, data: Buffer | Path) -> bool:
        return self._between(lambda: self._blobs.put(key, data))

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        return self._between(lambda: self._blobs.get(key, offset=offset, length=length))

    def _between(self, call: Any) -> Any:
        with self._lock:
            if self._left is not None:
                self._left -= 1
                if self._left < 0:
                    raise CutOff
            for _ in range(next(self._turns, 0)):
                self._machine.step()
            result = call()
            for _ in range(next(self._turns, 0)):
                self._machine.step()
            return result

    def store(self) -> SnapshotStore:
        return SnapshotStore(self, self)  # type: ignore[arg-type]  # what it needs of both
