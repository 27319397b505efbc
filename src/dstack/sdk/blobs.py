"""The interface of a blob store: immutable bytes by key. Retry, cache, limit and fault are wrappers of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal, Protocol

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """A stored object: its key, size in bytes and time of last change in microseconds UTC."""

    key: str
    size: int
    modified: int


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request that its holder may make without credentials. A `file://` URL is a path on this host."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    expires: int


class BlobStore(Protocol):
    """Immutable bytes by key. Synchronous: callers use threads. Raises KeyError for a missing key on get."""

    def put(self, key: str, data: Buffer | Path) -> bool:
        """Store once; False when the key was already there (its bytes are left alone)."""
        ...

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes: ...

    def stat(self, key: str) -> ObjectInfo | None: ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]: ...

    def delete(self, keys: Iterable[str]) -> None: ...

    def sign(self, method: Literal["GET", "PUT"], key: str, ttl: timedelta) -> SignedRequest | None: ...
