"""The routes for keeping house: deleting runs, what takes space, and making a repository known."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from dstack.server.api.requests import read_body, read_number, repository_of
from dstack.server.db.engine import declare_write
from dstack.server.services import delete, listing, usage
from dstack.server.services.context import Context
from dstack.server.services.repositories import RepositoryRef, ensure_repository

Handler = Callable[[Request], Awaitable[Response]]
REGISTER = declare_write("repositories.register")
LARGEST = 20
"""Runs that the answer about space names where the request does not say how many."""
_TOGETHER = 100
"""Logs that are removed at once: meanwhile this server does nothing else."""


class DeleteBody(msgspec.Struct, frozen=True):
    runs: tuple[str, ...]
    force: bool = False


def upkeep_routes(context: Context) -> list[tuple[str, str, Handler]]:
    async def delete_runs(request: Request) -> Response:
        body = await read_body(request, DeleteBody)
        actor = request.headers.get("x-dstack-user")
        done = await asyncio.to_thread(delete.delete, context, body.runs, force=body.force, actor=actor)
        for number, stream in enumerate(done.streams):
            context.logs.delete_now(stream)
            if number % _TOGETHER == _TOGETHER - 1:
                await asyncio.sleep(0)
        return _json({"deleted": done.deleted, "refused": done.refused})

    async def show_usage(request: Request) -> Response:
        limit = read_number(request.query_params, "limit")
        return _json(await asyncio.to_thread(usage.usage, context, LARGEST if limit is None else limit))

    async def register(request: Request) -> Response:
        ref = await read_body(request, RepositoryRef)
        await asyncio.to_thread(context.database.write, REGISTER, lambda tx: ensure_repository(tx, context, ref))
        return _json({"key": ref.key, "name": ref.name})

    async def names(request: Request) -> Response:
        ref = repository_of(request.query_params)
        return _json(await context.database.aread(lambda tx: listing.names(tx, context.project_id, ref)))

    return [
        ("GET", "/names", names),
        ("POST", "/runs/delete", delete_runs),
        ("GET", "/usage", show_usage),
        ("POST", "/repositories", register),
    ]


def _json(body: Any) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
