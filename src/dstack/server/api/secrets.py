"""The routes of secrets. No answer has a value in it, and no address either."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from dstack.server.api.requests import read_body, repository_of
from dstack.server.db.engine import Transaction
from dstack.server.services import secrets
from dstack.server.services.context import Context
from dstack.server.services.errors import BadRequest
from dstack.server.services.repositories import RepositoryRef, find_repository

Handler = Callable[[Request], Awaitable[Response]]


class SecretBody(msgspec.Struct, frozen=True):
    repository: RepositoryRef
    value: str
    name: str = ""
    """Of a new one; one that exists is named by the address."""
    overwrite: bool = False


def secrets_routes(context: Context) -> list[tuple[str, str, Handler]]:
    async def show(request: Request) -> Response:
        ref = _repository(request)

        def read(tx: Transaction) -> list[dict[str, Any]]:
            found = find_repository(tx, context.project_id, ref)
            return [] if found is None else secrets.listing(tx, context.project_id, found)

        return _json({"items": await context.database.aread(read), "next": None})

    async def add(request: Request) -> Response:
        body = await read_body(request, SecretBody)
        made = await asyncio.to_thread(
            secrets.add,
            context,
            body.repository,
            body.name,
            body.value,
            overwrite=body.overwrite,
            actor=request.headers.get("x-dstack-user"),
        )
        return _json(made, 201)

    async def change(request: Request) -> Response:
        body = await read_body(request, SecretBody)
        name, actor = request.path_params["name"], request.headers.get("x-dstack-user")
        return _json(await asyncio.to_thread(secrets.change, context, body.repository, name, body.value, actor=actor))

    async def remove(request: Request) -> Response:
        ref, name = _repository(request), request.path_params["name"]
        key = request.headers.get("idempotency-key")
        return _json(await asyncio.to_thread(secrets.remove, context, ref, name, key))

    return [
        ("GET", "/secrets", show),
        ("POST", "/secrets", add),
        ("PUT", "/secrets/{name}", change),
        ("DELETE", "/secrets/{name}", remove),
    ]


def _repository(request: Request) -> RepositoryRef:
    ref = repository_of(request.query_params)
    if ref is None:
        raise BadRequest("whose secrets? `repository` is missing")
    return ref


def _json(body: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status_code=status, media_type="application/json")
