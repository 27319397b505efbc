"""The routes under `/api/v1`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from sqlalchemy import func, select
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

import dstack
from dstack.protocol.messages import PROTOCOL
from dstack.server.api.artifacts import artifact_routes
from dstack.server.api.errors import answer_errors
from dstack.server.api.keeping import keeping_routes
from dstack.server.api.metrics import metrics_routes
from dstack.server.api.requests import (
    StopBody,
    TagBody,
    ValidateBody,
    read_body,
    read_log_cursor,
    read_number,
    read_page_cursor,
    repository_of,
    text_of,
)
from dstack.server.api.secrets import secrets_routes
from dstack.server.api.store import store_routes
from dstack.server.api.upkeep import upkeep_routes
from dstack.server.api.verify import verify_routes
from dstack.server.db.engine import Transaction
from dstack.server.db.tables import jobs
from dstack.server.db.tables import runners as runners_table
from dstack.server.db.tables import runs as runs_table
from dstack.server.services import (
    differences,
    explain,
    following,
    packages,
    plans,
    resume,
    runner_views,
    runs,
    stopping,
    tags,
    views,
    waiting,
)
from dstack.server.services.context import Context
from dstack.server.services.errors import BadRequest, NotFound
from dstack.server.services.named import run_id_of
from dstack.server.services.repositories import named_repository
from dstack.server.services.unsatisfiable import fit

T = TypeVar("T")
MOST_RUNS = 100
"""Runs of one page; who wants more goes on with `next`."""
Shutdown = Callable[[], None]
TAIL_LINES = 20


def routes(context: Context, shutdown: Shutdown) -> list[Route]:
    """The routes, bound to one server; `shutdown` asks it to end."""
    api = _Api(context, shutdown)
    base = "/api/v1/projects/{project}"
    table: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("GET", "/api/v1/info", api.info),
        ("POST", "/api/v1/shutdown", api.shutdown),
        ("POST", f"{base}/runs", api.submit),
        ("GET", f"{base}/runs", api.list_runs),
        ("POST", f"{base}/plan", api.plan),
        ("POST", f"{base}/validate", api.validate),
        ("GET", f"{base}/runs/{{name}}", api.show_run),
        ("POST", f"{base}/runs/{{name}}/stop", api.stop),
        ("GET", f"{base}/runs/{{name}}/given", api.given),
        ("POST", f"{base}/runs/{{name}}/resume", api.resume),
        ("POST", f"{base}/runs/{{name}}/resume/plan", api.plan_resume),
        ("GET", f"{base}/runs/{{name}}/explain", api.explain),
        ("GET", f"{base}/runs/{{name}}/diff", api.diff),
        ("GET", f"{base}/runs/{{name}}/packages", api.packages),
        ("GET", f"{base}/runs/{{name}}/logs", api.logs),
        ("GET", f"{base}/runners", api.list_runners),
        ("GET", f"{base}/tags", api.list_tags),
        ("POST", f"{base}/tags", api.tag),
        ("DELETE", f"{base}/tags/{{name}}", api.untag),
        *((method, f"{base}{path}", handler) for method, path, handler in artifact_routes(context)),
        *((method, f"{base}{path}", handler) for method, path, handler in store_routes(context)),
        *((method, f"{base}{path}", handler) for method, path, handler in metrics_routes(context)),
        *((method, f"{base}{path}", handler) for method, path, handler in upkeep_routes(context)),
        *((method, f"{base}{path}", handler) for method, path, handler in secrets_routes(context)),
        *((method, f"{base}{path}", handler) for method, path, handler in verify_routes(context)),
        *((method, f"{base}{path}", handler) for method, path, handler in keeping_routes(context)),
    ]
    return [
        Route(path, answer_errors(_in_project(context, handler)), methods=[method]) for method, path, handler in table
    ]


class _Api:
    def __init__(self, context: Context, shutdown: Shutdown) -> None:
        self._context = context
        self._shutdown = shutdown

    async def info(self, request: Request) -> Response:
        context = self._context

        def read(tx: Transaction) -> tuple[int, list[dict[str, Any]]]:
            open_states = ["waiting", "queued", "assigned", "starting", "running", "saving"]
            open_runs = select(runs_table.c.id).where(
                runs_table.c.project_id == context.project_id, runs_table.c.state.in_(views.OPEN_RUNS)
            )
            active = tx.execute(
                select(func.count())
                .select_from(jobs)
                .where(
                    jobs.c.project_id == context.project_id,
                    jobs.c.run_id.in_(open_runs),
                    jobs.c.state.in_(open_states),
                )
            ).scalar_one()
            found = tx.execute(
                select(runners_table.c.name, runners_table.c.state, runners_table.c.slots).where(
                    runners_table.c.project_id == context.project_id, runners_table.c.state != "offline"
                )
            )
            return active, [{"name": row.name, "status": row.state, "slots": row.slots} for row in found]

        active, found = await context.database.aread(read)
        return _json(
            {
                "version": dstack.__version__,
                "protocol": PROTOCOL,
                "deployment": context.deployment_id.hex,
                "pid": os.getpid(),
                "started_at": context.started_at,
                "database": context.database.where,
                "store": str(context.settings.store),
                "active_jobs": active,
                "runners": found,
            }
        )

    async def shutdown(self, request: Request) -> Response:
        if not self._context.settings.socket:
            raise BadRequest("only an embedded server ends on request")
        self._shutdown()
        return _json({}, 202)

    async def submit(self, request: Request) -> Response:
        submission = await read_body(request, runs.Submission)
        key = request.headers.get("idempotency-key")
        return await self._made(await asyncio.to_thread(runs.submit, self._context, submission, key))

    async def _made(self, made: runs.Submitted) -> Response:
        answer = {**await self._run(made.name), "warnings": made.warnings, "undecided": made.undecided}
        return _json(answer, 201 if made.new else 200)

    async def plan(self, request: Request) -> Response:
        submission = await read_body(request, runs.Submission)

        def plan() -> dict[str, Any]:
            planned = runs.plan(self._context, submission)
            return plans.view(planned, fit(self._context, planned.steps), submission.code)

        return _json(await asyncio.to_thread(plan))

    async def validate(self, request: Request) -> Response:
        body = await read_body(request, ValidateBody)
        return _json(await asyncio.to_thread(plans.validate, body.files, body.describe, body.code, body.contents))

    async def list_runs(self, request: Request) -> Response:
        query = request.query_params
        limit = max(1, min(read_number(query, "limit") or MOST_RUNS, MOST_RUNS))
        cursor = read_page_cursor(query)

        def read(tx: Transaction) -> views.Page:
            return views.run_page(
                tx,
                self._context.project_id,
                repository_id=self._repository(tx, query),
                active=query.get("active") == "1",
                limit=limit,
                cursor=cursor,
                why=lambda run_id: waiting.first_why(tx, self._context.project_id, run_id, self._context.settings),
            )

        items, following_page = await self._list(read, ([], None))
        return _json({"items": items, "next": following_page})

    async def show_run(self, request: Request) -> Response:
        context, name = self._context, request.path_params["name"]

        def read(tx: Transaction) -> dict[str, Any] | None:
            def whys(run_id: UUID) -> dict[UUID, str]:
                return waiting.whys(tx, context.project_id, run_id, context.settings, context.problems)

            return views.run_view(tx, context.project_id, name, whys)

        found = await context.database.aread(read)
        return _json(found if found is not None else await self._run(name))

    async def stop(self, request: Request) -> Response:
        body = await read_body(request, StopBody)
        name = request.path_params["name"]
        actor = body.user or _user(request)
        stop = partial(stopping.stop, self._context, name, job=body.job, abort=body.abort, actor=actor)
        answer = await asyncio.to_thread(stop)
        return _json({**await self._run(name), "message": answer.detail if answer.outcome == "ignored" else ""})

    async def given(self, request: Request) -> Response:
        found = await asyncio.to_thread(resume.given, self._context, request.path_params["name"])
        return _json(found._asdict())

    async def resume(self, request: Request) -> Response:
        wish = await read_body(request, resume.Wish)
        key = request.headers.get("idempotency-key")
        name = request.path_params["name"]
        return await self._made(await asyncio.to_thread(resume.submit, self._context, name, wish, key))

    async def plan_resume(self, request: Request) -> Response:
        wish = await read_body(request, resume.Wish)

        def plan() -> dict[str, Any]:
            found = resume.plan(self._context, request.path_params["name"], wish)
            left = [step for step in found.plan.steps if not found.carried.is_reused(step)]
            return plans.view(found.plan, fit(self._context, left), found.code, found.carried)

        return _json(await asyncio.to_thread(plan))

    async def explain(self, request: Request) -> Response:
        name = request.path_params["name"]
        found = await self._context.database.aread(lambda tx: explain.explain(tx, self._context, name))
        cause = found.root_cause
        if cause is not None:
            cause = {**cause, "tail": self._tail(found)}
        return _json({"summary": found.summary, "lines": found.lines, "root_cause": cause, "waiting": found.waiting})

    async def diff(self, request: Request) -> Response:
        project_id, name = self._context.project_id, request.path_params["name"]

        def read(tx: Transaction) -> str:
            return differences.of_run(tx, project_id, run_id_of(tx, project_id, name))

        return Response(await self._context.database.aread(read), media_type="text/plain")

    async def packages(self, request: Request) -> Response:
        project_id, name = self._context.project_id, request.path_params["name"]

        def read(tx: Transaction) -> list[dict[str, Any]]:
            return packages.of_run(tx, project_id, run_id_of(tx, project_id, name))

        return _json({"items": await self._context.database.aread(read)})

    def _tail(self, found: explain.Explanation) -> list[str]:
        if found.attempt_id is None:
            return []
        length = self._context.logs.length_now(found.attempt_id)
        page = self._context.logs.read_now(found.attempt_id, max(0, length - 16384), 16384)
        return page.data.decode(errors="replace").splitlines()[-TAIL_LINES:]

    async def logs(self, request: Request) -> Response:
        query = request.query_params
        stream = await following.frames(
            self._context,
            request.path_params["name"],
            follow=query.get("follow") == "1",
            job=text_of(query, "job"),
            since=read_number(query, "since"),
            cursor=read_log_cursor(query),
        )
        return StreamingResponse(stream, media_type="application/x-dstack-frames")

    async def list_runners(self, request: Request) -> Response:
        project_id, everything = self._context.project_id, request.query_params.get("all") == "1"

        def read(tx: Transaction) -> list[dict[str, Any]]:
            return runner_views.runner_views(tx, project_id, everything=everything)

        return _json({"items": await self._context.database.aread(read), "next": None})

    async def list_tags(self, request: Request) -> Response:
        def read(tx: Transaction) -> list[dict[str, Any]]:
            repository = self._repository(tx, request.query_params)
            return tags.listing(tx, self._context.project_id, repository)

        return _json({"items": _shown(await self._list(read, [])), "next": None})

    async def tag(self, request: Request) -> Response:
        body = await read_body(request, TagBody)
        made = await asyncio.to_thread(
            tags.tag, self._context, body.run, body.name, force=body.force, actor=_user(request)
        )
        return _json({"items": _shown(made)})

    async def untag(self, request: Request) -> Response:
        repository = await self._context.database.aread(lambda tx: self._repository(tx, request.query_params))
        removed = await asyncio.to_thread(
            tags.untag,
            self._context,
            request.path_params["name"],
            repository,
            text_of(request.query_params, "workflow"),
            request.headers.get("idempotency-key"),
        )
        return _json({"items": _shown(removed)})

    def _repository(self, tx: Transaction, query: QueryParams) -> UUID | None:
        return named_repository(tx, self._context.project_id, repository_of(query))

    async def _run(self, name: str) -> dict[str, Any]:
        """The run as a list shows it: an answer that says what became of the request, not 10,000 jobs."""
        project_id = self._context.project_id
        found = await self._context.database.aread(lambda tx: views.run_view(tx, project_id, name, whole=False))
        if found is None:
            await self._context.database.aread(lambda tx: run_id_of(tx, self._context.project_id, name))
            raise NotFound(f"there is no run `{name}`")
        return found

    async def _list(self, read: Callable[[Transaction], T], empty: T) -> T:
        """What `read` lists; nothing of a repository that was never seen."""
        try:
            return await self._context.database.aread(read)
        except NotFound:
            return empty


def _in_project(
    context: Context, handler: Callable[[Request], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        project = request.path_params.get("project", context.settings.project)
        if project != context.settings.project:
            raise NotFound(f"there is no project `{project}`")
        return await handler(request)

    return endpoint


def _user(request: Request) -> str | None:
    return request.headers.get("x-dstack-user")


def _shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "repository_id"} for row in rows]


def _json(body: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status_code=status, media_type="application/json")
