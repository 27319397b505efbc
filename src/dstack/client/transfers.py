"""How much of what is saved or restored really had to travel: equal content is stored and fetched once."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Literal

from dstack.client.api import Api
from dstack.client.store import RemoteCatalog, SignedBlobs
from dstack.sdk.blobs import Buffer, ObjectInfo, SignedRequest
from dstack.snapshots.store import SnapshotStore


class CountedBlobs:
    """`SignedBlobs` that counts the bytes it fetches and stores. Safe for threads."""

    def __init__(self, api: Api) -> None:
        self.fetched = 0
        self.stored = 0
        self._blobs = SignedBlobs(api)
        self._lock = threading.Lock()

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        data = self._blobs.get(key, offset=offset, length=length)
        with self._lock:
            self.fetched += len(data)
        return data

    def put(self, key: str, data: Buffer | Path) -> bool:
        stored = self._blobs.put(key, data)
        with self._lock:
            self.stored += data.stat().st_size if isinstance(data, Path) else len(data)
        return stored

    def stat(self, key: str) -> ObjectInfo | None:
        return self._blobs.stat(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._blobs.list(prefix)

    def delete(self, keys: Iterable[str]) -> None:
        self._blobs.delete(keys)

    def sign(self, method: Literal["GET", "PUT"], key: str, ttl: timedelta) -> SignedRequest | None:
        return self._blobs.sign(method, key, ttl)

    def sync(self) -> None:
        self._blobs.sync()


def counted_store(api: Api) -> tuple[SnapshotStore, CountedBlobs]:
    """The project's snapshots, and what tells how many bytes were fetched and stored of them."""
    blobs = CountedBlobs(api)
    return SnapshotStore(blobs, RemoteCatalog(api)), blobs
