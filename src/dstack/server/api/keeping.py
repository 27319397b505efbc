"""The routes for what is kept: the rules of the project, and collecting garbage."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from dstack.server.api.requests import read_body
from dstack.server.api.streaming import stream
from dstack.server.services import gc, retention
from dstack.server.services.context import Context
from dstack.server.services.errors import BadRequest

Handler = Callable[[Request], Awaitable[Response]]


class GcBody(msgspec.Struct, frozen=True):
    dry_run: bool = True
    grace: float | None = None
    despite_damage: bool = False


class RetentionBody(msgspec.Struct, frozen=True):
    rules: dict[str, str]


def keeping_routes(context: Context) -> list[tuple[str, str, Handler]]:
    async def collect(request: Request) -> Response:
        body = await read_body(request, GcBody)
        if body.grace is not None and not 0 <= body.grace < 1e9:
            raise BadRequest(f"a grace of {body.grace:g} seconds", hint="0 or more")
        return stream(context, gc.collect(context, gc.Wanted(body.dry_run, body.grace, body.despite_damage)))

    async def show_rules(request: Request) -> Response:
        return _json(await asyncio.to_thread(retention.shown, context))

    async def set_rules(request: Request) -> Response:
        body = await read_body(request, RetentionBody)
        actor = request.headers.get("x-dstack-user")
        return _json(await asyncio.to_thread(retention.set_rules, context, body.rules, actor))

    return [
        ("POST", "/store/gc", collect),
        ("GET", "/retention", show_rules),
        ("PUT", "/retention", set_rules),
    ]


def _json(body: Any) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
