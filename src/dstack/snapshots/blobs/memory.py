"""Blobs in a dict, for tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Literal

from dstack.sdk.blobs import Buffer, ObjectInfo, SignedRequest


class MemoryBlobStore:
    """Safe for threads. It signs nothing: its holder is the only one who can reach it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blobs: dict[str, tuple[bytes, int]] = {}

    def put(self, key: str, data: Buffer | Path) -> bool:
        content = data.read_bytes() if isinstance(data, Path) else bytes(data)
        with self._lock:
            if key in self._blobs:
                return False
            self._blobs[key] = content, time.time_ns() // 1000
            return True

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        with self._lock:
            content = self._blobs[key][0]
        return content[offset : None if length is None else offset + length]

    def stat(self, key: str) -> ObjectInfo | None:
        with self._lock:
            found = self._blobs.get(key)
        return ObjectInfo(key, len(found[0]), found[1]) if found else None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._lock:
            found = [(key, *value) for key, value in self._blobs.items() if key.startswith(prefix)]
        for key, content, modified in sorted(found):
            yield ObjectInfo(key, len(content), modified)

    def delete(self, keys: Iterable[str]) -> None:
        with self._lock:
            for key in keys:
                self._blobs.pop(key, None)

    def sign(self, method: Literal["GET", "PUT"], key: str, ttl: timedelta) -> SignedRequest | None:
        return None
