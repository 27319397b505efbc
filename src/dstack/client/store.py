"""The snapshot store seen from a client: the catalog through the API, packs through requests that the server signs.

A signed `file://` URL is a path on this host (embedded mode): packs are then written where they stay. Any other address
is either the server's own (no host: asked over the API's connection) or an object store's, reached without credentials.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar
from urllib.parse import unquote_to_bytes, urlsplit

import msgspec

from dstack.client.api import Api, ApiError
from dstack.sdk.blobs import Buffer, ObjectInfo, SignedRequest
from dstack.snapshots.blobs.local import write_once
from dstack.snapshots.capture import save
from dstack.snapshots.errors import StoreRefused
from dstack.snapshots.interfaces import ChunkLocation, PackIndex
from dstack.snapshots.statcache import FileCache
from dstack.snapshots.store import SnapshotStore

if TYPE_CHECKING:
    from dstack.client.sent import CodeRef

_T = TypeVar("_T")
_ENCODER = msgspec.msgpack.Encoder()
_FALSE = _ENCODER.encode(False)
_EXPIRY_MARGIN = 60 * 10**6
"""Microseconds before its expiry at which a signed request is no longer begun."""


class RemoteCatalog:
    """`snapshots.interfaces.Catalog` of the project, over the API. Safe for threads."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def missing(self, chunk_ids: Sequence[bytes]) -> set[bytes]:
        return set(_call(self._api, "missing", chunk_ids, list[bytes]))

    def locate(self, chunk_ids: Sequence[bytes]) -> Mapping[bytes, ChunkLocation]:
        return _call(self._api, "locate", chunk_ids, dict[bytes, ChunkLocation])

    def add(self, packs: Sequence[PackIndex]) -> None:
        _call(self._api, "add", packs, int)


class SignedBlobs:
    """`sdk.blobs.BlobStore` without the rights of one: what it does, the server signed. Safe for threads."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._hosts: dict[str, Api] = {}
        self._signed: dict[str, SignedRequest] = {}
        """How to GET a key, until that expires. A PUT is made once, and where the store is then."""

    def put(self, key: str, data: Buffer | Path) -> bool:
        """Raises StoreRefused when the store does not take it."""
        request = self._request("PUT", key)
        path = _local_path(request)
        if path is not None:
            return write_once(path, data)
        with _bytes_of(data) as body:
            return self._send(request, key, body)

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        was_signed = key in self._signed
        try:
            return self._get(self._request("GET", key), key, offset, length)
        except KeyError:
            if not was_signed:
                raise
        # The store may have moved since that was signed.
        self._signed.pop(key, None)
        return self._get(self._request("GET", key), key, offset, length)

    def stat(self, key: str) -> ObjectInfo | None:
        raise PermissionError("a client asks the catalog what is stored, not the store")

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        raise PermissionError("a client cannot list the store")

    def delete(self, keys: Iterable[str]) -> None:
        raise PermissionError("a client cannot delete from the store")

    def sign(self, method: Literal["GET", "PUT"], key: str, ttl: timedelta) -> SignedRequest | None:
        return self._request(method, key)

    def sync(self) -> None:
        """Wait until all that the catalog names would survive a power cut, also what others have put.

        Another process may have put a chunk that a save found stored, and may have been killed before it was on the
        disk; the server knows of both.
        """
        with self._api.apart() as api:
            _call(api, "sync", None, bool)

    def _get(self, request: SignedRequest, key: str, offset: int, length: int | None) -> bytes:
        path = _local_path(request)
        if path is None:
            return self._fetch(request, key, offset, length)
        try:
            with open(path, "rb") as file:
                file.seek(offset)
                return file.read(-1 if length is None else length)
        except FileNotFoundError:
            raise KeyError(key) from None

    def _fetch(self, request: SignedRequest, key: str, offset: int, length: int | None) -> bytes:
        if length == 0:
            return b""
        target, headers = _target(request), dict(request.headers)
        is_part = bool(offset) or length is not None
        if is_part:
            headers["range"] = f"bytes={offset}-{'' if length is None else offset + length - 1}"
        try:
            status, content = self._at(request).get_blob(target, headers)
        except ApiError as error:
            if error.status == 404:
                raise KeyError(key) from error
            if error.status == 416:
                return b""  # the blob ends before that: it was cut short
            raise
        if not is_part or status == 206:
            return content
        return content[offset : None if length is None else offset + length]  # a server may ignore a range

    def _send(self, request: SignedRequest, key: str, body: Buffer) -> bool:
        try:
            answer = self._at(request).put_blob(_target(request), dict(request.headers), body)
        except ApiError as error:
            if error.status in (409, 412):  # create-only: somebody else put the same bytes first
                return False
            raise StoreRefused(f"the store did not take {key}: {error.message}") from error
        # Our own server says whether the key was new; an object store says nothing.
        return answer != _FALSE

    def _at(self, request: SignedRequest) -> Api:
        """The server itself where the address names no host, else the object store."""
        parts = urlsplit(request.url)
        if not parts.netloc:
            return self._api
        host = f"{parts.scheme}://{parts.netloc}"
        if host not in self._hosts:
            from dstack.client.remote import RemoteTransport

            self._hosts[host] = Api(lambda: RemoteTransport(host))
        return self._hosts[host]

    def _request(self, method: Literal["GET", "PUT"], key: str) -> SignedRequest:
        known = self._signed.get(key) if method == "GET" else None
        if known is None or known.expires - _EXPIRY_MARGIN < time.time_ns() // 1000:
            known = _call(self._api, "sign", {"method": method, "keys": [key]}, list[SignedRequest])[0]
            if method == "GET":
                self._signed[key] = known
        return known


def remote_store(api: Api) -> SnapshotStore:
    """The project's snapshots."""
    return SnapshotStore(SignedBlobs(api), RemoteCatalog(api))


def save_code(
    api: Api, root: str, files: Mapping[str, os.stat_result], cache: str
) -> tuple[CodeRef, tuple[str, ...], int]:
    """Save the `files` of `root`, each with how it was found a moment ago; also what of them could not be saved as it
    is, in words, and the bytes that were not there before.

    `cache` is a file that spares reading what did not change.
    """
    found = {os.fsencode(path): status for path, status in files.items()}
    saved = save(Path(root), remote_store(api), paths=found, known=found, cache=FileCache.load(Path(cache)))
    code: CodeRef = {
        "manifest_id": saved.manifest_id.hex(),
        "content_id": saved.content_id.hex(),
        "files": saved.files,
        "size": saved.size,
    }
    return code, saved.warnings, saved.stored


def _call(api: Api, name: str, body: object, answer: type[_T]) -> _T:
    return msgspec.msgpack.decode(api.store_call(name, _ENCODER.encode(body)), type=answer)


def _local_path(request: SignedRequest) -> Path | None:
    parts = urlsplit(request.url)
    return Path(os.fsdecode(unquote_to_bytes(parts.path))) if parts.scheme == "file" else None


def _target(request: SignedRequest) -> str:
    """The path and query of a request to the server itself."""
    parts = urlsplit(request.url)
    return parts.path + (f"?{parts.query}" if parts.query else "")


@contextmanager
def _bytes_of(data: Buffer | Path) -> Generator[Buffer]:
    if not isinstance(data, Path):
        yield data
        return
    with open(data, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
            yield view
