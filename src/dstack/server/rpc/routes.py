"""The runners' routes under `/rpc/v1`."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from sqlalchemy import select
from sqlalchemy.exc import DataError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dstack.protocol import messages
from dstack.protocol.messages import STREAM_OVER
from dstack.server.db.errors import DatabaseError, DatabaseUnavailable
from dstack.server.db.tables import attempts
from dstack.server.services import run_values, runners
from dstack.server.services.context import Context

T = TypeVar("T")
_log = logging.getLogger(__name__)
_MEDIA = "application/msgpack"
_KNOWN_STREAMS = 4096


def routes(context: Context) -> list[Route]:
    """The routes, bound to one server."""
    rpc = _Rpc(context)
    return [
        Route("/rpc/v1/register", _endpoint(messages.RegisterRequest, rpc.register), methods=["POST"]),
        Route("/rpc/v1/poll", _endpoint(messages.PollRequest, rpc.poll), methods=["POST"]),
        Route("/rpc/v1/events", _endpoint(messages.EventsRequest, rpc.events), methods=["POST"]),
        Route("/rpc/v1/logs", _endpoint(messages.LogsRequest, rpc.logs), methods=["POST"]),
        Route("/rpc/v1/secrets", _endpoint(messages.SecretsRequest, rpc.secrets), methods=["POST"]),
        Route("/rpc/v1/goodbye", _endpoint(messages.Goodbye, rpc.goodbye), methods=["POST"]),
    ]


class _Rpc:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._streams: dict[UUID, UUID] = {}

    async def register(self, request: messages.RegisterRequest) -> messages.RegisterReply:
        return await asyncio.to_thread(runners.register, self._context, request)

    async def poll(self, request: messages.PollRequest) -> messages.Commands:
        """Held open until there is something to say, or the runner's patience ends."""
        loop = asyncio.get_running_loop()
        end = loop.time() + min(request.wait, self._context.settings.poll_wait)
        ended = f"ended:{request.runner_id.hex}"
        with self._context.bus.subscribe([f"runner:{request.runner_id.hex}", ended, "shutdown"]) as subscription:
            news = {ended}
            held = False
            while True:
                # What the runner itself has ended since it asked is no news to it; what the server ended is.
                found = await asyncio.to_thread(
                    runners.poll, self._context, request, tell_ended=ended in news, held=held
                )
                if isinstance(found, runners.RunnerGone):
                    return messages.Commands(register=True)
                left = end - loop.time()
                # What is asked for has time until this poll ends: it may well be on its way.
                if left <= 0 or msgspec.structs.replace(found, ask=()) != messages.Commands():
                    return found
                held = True
                news = await subscription.wait_topics(left)
                if not news or "shutdown" in news:
                    return found

    async def events(self, request: messages.EventsRequest) -> messages.EventsReply:
        reply = await asyncio.to_thread(runners.report, self._context, request)
        for event, answer in zip(request.events, reply.answers, strict=True):
            # What printed nothing has no stream, and needs no file to say so: most steps of a large graph are such.
            if answer.outcome != "rejected" and messages.log_of_end(event):
                self._seal(event.attempt_id)
        return reply

    async def logs(self, request: messages.LogsRequest) -> messages.LogsReply:
        """Append each chunk; one that cannot be taken costs the others nothing."""
        unknown = [chunk.attempt_id for chunk in request.chunks if chunk.attempt_id not in self._streams]
        if unknown:
            await self._learn(unknown)
        answers = tuple(self._append(chunk) for chunk in request.chunks)
        taken = {
            chunk.attempt_id for chunk, answer in zip(request.chunks, answers, strict=True) if answer != STREAM_OVER
        }
        self._context.bus.publish_many({f"run:{self._streams[attempt_id].hex}" for attempt_id in taken})
        return messages.LogsReply(next_offsets=answers)

    async def secrets(self, request: messages.SecretsRequest) -> messages.SecretsReply:
        return await asyncio.to_thread(run_values.hand_out, self._context, request)

    async def goodbye(self, request: messages.Goodbye) -> messages.Commands:
        await asyncio.to_thread(runners.goodbye, self._context, request.runner_id, request.incarnation)
        return messages.Commands()

    def _append(self, chunk: messages.LogChunk) -> int:
        """Where the stream goes on; STREAM_OVER for one that is sealed, of no attempt, or makes no sense."""
        if chunk.attempt_id not in self._streams or chunk.offset < 0:
            return STREAM_OVER
        try:
            wanted = self._context.logs.append_now(chunk.attempt_id, chunk.offset, chunk.data, chunk.times)
        except (OverflowError, struct.error) as error:
            _log.warning("a piece of the log of attempt %s cannot be stored: %s", chunk.attempt_id, error)
            return STREAM_OVER
        return STREAM_OVER if chunk.offset <= wanted < chunk.offset + len(chunk.data) else wanted

    def _seal(self, attempt_id: UUID) -> None:
        """The log is whole. Where that cannot be kept, the log is there all the same, and its attempt is over."""
        try:
            self._context.logs.seal_now(attempt_id)
        except OSError as error:
            _log.warning("the log of attempt %s is not sealed: %s", attempt_id, error)

    async def _learn(self, ids: list[UUID]) -> None:
        query = select(attempts.c.id, attempts.c.run_id).where(
            attempts.c.project_id == self._context.project_id, attempts.c.id.in_(ids)
        )
        found = await self._context.database.aread(lambda tx: tx.execute(query).all())
        for attempt_id, run_id in found:
            if len(self._streams) >= _KNOWN_STREAMS:
                self._streams.pop(next(iter(self._streams)))
            self._streams[attempt_id] = run_id


def _endpoint(kind: type[T], handle: Callable[[T], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
    decode = msgspec.msgpack.Decoder(kind).decode

    async def endpoint(request: Request) -> Response:
        version = request.headers.get(messages.PROTOCOL_HEADER, str(messages.PROTOCOL))
        if version != str(messages.PROTOCOL):
            return _error(
                426, "version", f"the runner speaks protocol {version}, this server {messages.PROTOCOL}",
                "update the older of the two",
            )  # fmt: skip
        try:
            message = decode(await request.body())
        except msgspec.MsgspecError as error:
            return _error(400, "invalid", f"the message cannot be read: {error}")
        try:
            return Response(messages.encode(await handle(message)), media_type=_MEDIA)
        except DatabaseUnavailable as error:
            return _error(503, "unavailable", str(error))
        except DatabaseError as error:
            return _error(500, "database", str(error))
        except OSError as error:
            return _error(507, "storage", f"the server cannot store it: {error}")
        except (DataError, OverflowError, struct.error) as error:
            cause = error.orig if isinstance(error, DataError) else error
            return _error(400, "invalid", f"the message holds what cannot be stored: {cause}")
        except Exception as error:  # noqa: BLE001 -- one bad message must not cost a runner its connection
            # The one place for what nobody foresaw: told in full in the server's log, in a sentence to the runner.
            _log.exception("%s failed", request.url.path)
            return _error(500, "internal", f"the server failed: {type(error).__name__}: {error}")

    return endpoint


def _error(status: int, code: str, message: str, hint: str = "") -> Response:
    body = messages.encode(messages.ErrorReply(code=code, message=message, hint=hint))
    return Response(body, status_code=status, media_type=_MEDIA)
