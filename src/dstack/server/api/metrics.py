"""The routes of metrics, and of what sets runs apart."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from dstack.server.api.requests import read_number, text_of
from dstack.server.services import compare, metrics
from dstack.server.services.context import Context
from dstack.server.services.errors import BadRequest

Handler = Callable[[Request], Awaitable[Response]]
POINTS = 200
"""Points of a series where the request does not say how many."""
MOST_COMPARED = 20


def metrics_routes(context: Context) -> list[tuple[str, str, Handler]]:
    async def show(request: Request) -> Response:
        query = request.query_params
        points = read_number(query, "points")
        found = await asyncio.to_thread(
            metrics.series,
            context,
            request.path_params["name"],
            job=text_of(query, "job"),
            name=text_of(query, "metric"),
            points=POINTS if points is None else max(0, points),
        )
        return _json({"items": found})

    async def differ(request: Request) -> Response:
        names = request.query_params.getlist("run")
        if not 2 <= len(names) <= MOST_COMPARED:
            raise BadRequest(f"{len(names)} runs cannot be compared", hint=f"name 2 to {MOST_COMPARED}")
        return _json(await asyncio.to_thread(compare.compare, context, names))

    return [("GET", "/runs/{name}/metrics", show), ("GET", "/compare", differ)]


def _json(body: object) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
