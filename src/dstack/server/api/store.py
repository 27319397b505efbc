"""The store's routes: which chunks are there, where they lie, and signed requests for packs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from dstack.sdk.blobs import SignedRequest
from dstack.server.services.catalog import DatabaseCatalog
from dstack.server.services.context import Context
from dstack.server.services.errors import BadRequest, NotFound
from dstack.snapshots.interfaces import PackIndex, pack_key

Handler = Callable[[Request], Awaitable[Response]]
TTL = timedelta(hours=1)
_KEY = re.compile(r"packs/[0-9a-f]{2}/[0-9a-f]{64}")
"""The only keys that clients may name: no path can be built from one."""


def store_routes(context: Context) -> list[tuple[str, str, Handler]]:
    store = _Store(context)
    return [
        ("POST", "/store/missing", store.missing),
        ("POST", "/store/locate", store.locate),
        ("POST", "/store/add", store.add),
        ("POST", "/store/sign", store.sign),
        ("GET", "/store/blobs/{key:path}", store.get),
        ("PUT", "/store/blobs/{key:path}", store.put),
    ]


class SignBody(msgspec.Struct, frozen=True):
    method: str
    keys: tuple[str, ...]


class _Store:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._catalog = DatabaseCatalog(context.database, context.project_id)

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
        """Only packs whose bytes are there may be named: a reference never comes before what it points to."""
        for pack in packs:
            found = self._context.blobs.stat(pack_key(pack.pack_id))
            if found is None or found.size != pack.size:
                raise BadRequest(f"pack {pack.pack_id.hex()} is not in the store whole", hint="upload it again")
        self._catalog.add(packs)

    async def sign(self, request: Request) -> Response:
        body = await _body(request, SignBody)
        if body.method not in ("GET", "PUT"):
            raise BadRequest(f"{body.method!r} cannot be signed", hint="GET or PUT")
        return _answer([self._signed(body.method, _checked(key)) for key in body.keys])

    def _signed(self, method: Any, key: str) -> SignedRequest:
        signed = self._context.blobs.sign(method, key, TTL)
        if signed is not None:
            return signed
        expires = self._context.clock.now() + int(TTL.total_seconds() * 1_000_000)
        path = f"/api/v1/projects/{self._context.settings.project}/store/blobs/{key}"
        return SignedRequest(method, path, (), expires)

    async def get(self, request: Request) -> Response:
        key = _checked(request.path_params["key"])
        offset = int(request.query_params.get("offset", "0"))
        length = request.query_params.get("length")
        try:
            data = await asyncio.to_thread(
                self._context.blobs.get, key, offset=offset, length=int(length) if length else None
            )
        except KeyError:
            raise NotFound(f"there is no blob {key}") from None
        return Response(data, media_type="application/octet-stream")

    async def put(self, request: Request) -> Response:
        key = _checked(request.path_params["key"])
        new = await asyncio.to_thread(self._context.blobs.put, key, await request.body())
        return _answer(new)


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise BadRequest(f"{key!r} is not a key of the store")
    return key


async def _body(request: Request, kind: Any) -> Any:
    try:
        return msgspec.msgpack.decode(await request.body(), type=kind)
    except msgspec.MsgspecError as error:
        raise BadRequest(f"the request's body cannot be read: {error}") from None


def _answer(body: Any) -> Response:
    return Response(msgspec.msgpack.encode(body), media_type="application/msgpack")
