"""The routes of what runs have saved: the newest snapshots, all there were, where they went, and uploads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from dstack.server.api.requests import read_body, read_page_cursor, repository_of, text_of
from dstack.server.db.engine import Transaction
from dstack.server.services import artifacts, history, lineage, uploads, views
from dstack.server.services.context import Context
from dstack.server.services.errors import BadRequest
from dstack.server.services.repositories import named_repository

Handler = Callable[[Request], Awaitable[Response]]


def artifact_routes(context: Context) -> list[tuple[str, str, Handler]]:
    api = _Artifacts(context)
    return [
        ("GET", "/artifacts", api.newest),
        ("GET", "/artifacts/history", api.history),
        ("POST", "/uploads", api.upload),
        ("GET", "/lineage", api.lineage),
    ]


class _Artifacts:
    def __init__(self, context: Context) -> None:
        self._context = context

    async def newest(self, request: Request) -> Response:
        query, project_id = request.query_params, self._context.project_id
        run, tag = _run_or_tag(request)
        only = _of_jobs(request)

        def read(tx: Transaction) -> list[dict[str, Any]]:
            if run is not None:
                return artifacts.of_run(tx, project_id, run, **only)
            repository = named_repository(tx, project_id, repository_of(query))
            return artifacts.of_tag(tx, project_id, tag or "", repository, **only)

        found = await self._context.database.aread(read)
        return _json({"items": [views.artifact_view(row) for row in found]})

    async def history(self, request: Request) -> Response:
        query, project_id = request.query_params, self._context.project_id
        run, tag = _run_or_tag(request)
        only = _of_jobs(request)
        cursor = read_page_cursor(query)

        def read(tx: Transaction) -> history.Page:
            if run is not None:
                return history.of_run(tx, project_id, run, cursor=cursor, **only)
            repository = named_repository(tx, project_id, repository_of(query))
            return history.of_tag(tx, project_id, tag or "", repository, cursor=cursor, **only)

        found, following = await self._context.database.aread(read)
        items = [
            {**views.artifact_view(row), "attempt": row["attempt"], "live": bool(row["live"]), "stored": row["stored"]}
            for row in found
        ]
        return _json({"items": items, "next": following.hex if following else None})

    async def upload(self, request: Request) -> Response:
        body = await read_body(request, uploads.Upload)
        key = request.headers.get("idempotency-key")
        made = await asyncio.to_thread(uploads.upload, self._context, body, key)
        project_id = self._context.project_id
        run = await self._context.database.aread(lambda tx: views.run_view(tx, project_id, made.name))
        return _json(run, 201 if made.new else 200)

    async def lineage(self, request: Request) -> Response:
        query, project_id = request.query_params, self._context.project_id
        run, tag = _run_or_tag(request)

        def read(tx: Transaction) -> lineage.Lineage:
            if run is not None:
                return lineage.of_run(tx, project_id, run)
            repository = named_repository(tx, project_id, repository_of(query))
            return lineage.of_tag(tx, project_id, tag or "", repository)

        found = await self._context.database.aread(read)
        return _json({"roots": found.roots, "links": found.links, "cut": found.cut})


def _run_or_tag(request: Request) -> tuple[str | None, str | None]:
    run, tag = text_of(request.query_params, "run"), text_of(request.query_params, "tag")
    if run is None and tag is None:
        raise BadRequest("whose artifacts? `run` and `tag` are both missing")
    return run, tag


def _of_jobs(request: Request) -> dict[str, str | None]:
    return {name: text_of(request.query_params, name) for name in ("job", "workflow")}


def _json(body: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status_code=status, media_type="application/json")
