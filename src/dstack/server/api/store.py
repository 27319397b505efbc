"""The store's routes: which chunks are there, where they lie, and signed requests for packs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import msgspec
from blake3 import blake3
from starlette.requests import Request
from starlette.responses import Response

from dstack.domain.ports import SECOND
from dstack.sdk.blobs import SignedRequest
from dstack.server.api.requests import read_limited
from dstack.server.services.catalog import catalog_of
from dstack.server.services.context import Context
from dstack.server.services.errors import BadRequest, NotFound
from dstack.server.services.syncing import sync_store
from dstack.snapshots.interfaces import ChunkEntry, PackIndex, pack_key
from dstack.snapshots.packs import MAX_PACK
from dstack.snapshots.store import Shared

Handler = Callable[[Request], Awaitable[Response]]
TTL = timedelta(hours=1)
_KEY = re.compile(r"packs/([0-9a-f]{2})/([0-9a-f]{64})")
"""The only keys that clients may name: no path can be built from one."""
_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{1,18})?")
_SLACK = 1 << 20
_ID_LENGTH = 32
_CODECS = 256
"""How many there may ever be: a byte of the format."""


def store_routes(context: Context) -> list[tuple[str, str, Handler]]:
    store = _Store(context)
    return [
        ("POST", "/store/missing", store.missing),
        ("POST", "/store/locate", store.locate),
        ("POST", "/store/add", store.add),
        ("POST", "/store/sign", store.sign),
        ("POST", "/store/sync", store.sync),
        ("GET", "/store/blobs/{key:path}", store.get),
        ("PUT", "/store/blobs/{key:path}", store.put),
    ]


class SignBody(msgspec.Struct, frozen=True):
    method: str
    keys: tuple[str, ...]


class _Store:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._catalog = catalog_of(context)

    async def missing(self, request: Request) -> Response:
        ids = await _body(request, list[bytes])
        return _answer(list(await asyncio.to_thread(self._catalog.missing, ids)))

    async def locate(self, request: Request) -> Response:
        ids = await _body(request, list[bytes])
        return _answer(dict(await asyncio.to_thread(self._catalog.locate, ids)))

    async def add(self, request: Request) -> Response:
        packs = await _body(request, list[PackIndex])
        await asyncio.to_thread(self._add, packs)
        return _answer(len(packs))

    def _add(self, packs: list[PackIndex]) -> None:
        for pack in packs:
            _checked(pack_key(pack.pack_id))
            if not all(_lies_within(chunk, pack) for chunk in pack.chunks):
                raise BadRequest(f"the index of pack {pack.pack_id.hex()} names bytes that are not in it")
        # Noted first: once the catalog answers "there" to another save, its sync has to wait for them, too.
        if isinstance(self._context.blobs, Shared):
            for pack in packs:
                self._context.blobs.note(pack_key(pack.pack_id))
        self._catalog.add(packs)

    async def sync(self, request: Request) -> Response:
        """Answered once all that the catalog names would survive a power cut, whoever wrote it."""
        await asyncio.to_thread(sync_store, self._context)
        return _answer(True)

    async def sign(self, request: Request) -> Response:
        body = await _body(request, SignBody)
        if body.method not in ("GET", "PUT"):
            raise BadRequest(f"`{body.method}` cannot be signed", hint="GET or PUT")
        return _answer([self._signed(body.method, _checked(key)) for key in body.keys])

    def _signed(self, method: Any, key: str) -> SignedRequest:
        signed = self._context.blobs.sign(method, key, TTL)
        if signed is not None:
            return signed
        expires = self._context.clock.now() + int(TTL.total_seconds() * SECOND)
        path = f"/api/v1/projects/{self._context.settings.project}/store/blobs/{key}"
        return SignedRequest(method, path, (), expires)

    async def get(self, request: Request) -> Response:
        """The blob, or the part of it that a `Range` of the plain form `bytes=FIRST-[LAST]` asks for."""
        key = _checked(request.path_params["key"])
        wanted = _RANGE.fullmatch(request.headers.get("range", ""))
        found = await asyncio.to_thread(self._context.blobs.stat, key)
        if found is None:
            raise NotFound(f"there is no blob {key}")
        offset, length, status, headers = 0, None, 200, dict[str, str]()
        if wanted is not None:
            offset = int(wanted[1])
            last = min(int(wanted[2] or found.size), found.size - 1)
            if offset > last:
                return Response(status_code=416, headers={"content-range": f"bytes */{found.size}"})
            length, status = last - offset + 1, 206
            headers["content-range"] = f"bytes {offset}-{last}/{found.size}"
        data = await asyncio.to_thread(self._context.blobs.get, key, offset=offset, length=length)
        return Response(data, status_code=status, headers=headers, media_type="application/octet-stream")

    async def put(self, request: Request) -> Response:
        key = _checked(request.path_params["key"])
        return _answer(await asyncio.to_thread(self._put, key, await read_limited(request, MAX_PACK + _SLACK)))

    def _put(self, key: str, data: bytes) -> bool:
        """What is not what its name says would be found by every later reader, too late."""
        if blake3(data).hexdigest() != key.rpartition("/")[2]:
            raise BadRequest(f"the bytes sent are not those of {key}", hint="they changed on the way: send them again")
        return self._context.blobs.put(key, data)


def _lies_within(chunk: ChunkEntry, pack: PackIndex) -> bool:
    end = chunk.offset + chunk.stored_length
    return (
        len(chunk.chunk_id) == _ID_LENGTH
        and chunk.offset >= 0
        and chunk.stored_length >= 0
        and end <= pack.size
        and 0 <= chunk.raw_length <= MAX_PACK
        and 0 <= chunk.codec < _CODECS
    )


def _checked(key: str) -> str:
    match = _KEY.fullmatch(key)
    if match is None or match[1] != match[2][:2]:
        raise BadRequest(f"`{key[:200]}` is not a key of the store")
    return key


async def _body(request: Request, kind: Any) -> Any:
    try:
        return msgspec.msgpack.decode(await read_limited(request), type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadRequest(f"the request's body cannot be read: {error}") from None


def _answer(body: Any) -> Response:
    return Response(msgspec.msgpack.encode(body), media_type="application/msgpack")
