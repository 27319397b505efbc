"""The route that checks the store, and heals it: frames, as `logs` has them, for as long as it takes.

The work runs in a thread of its own, a step at a time, and stands still while nobody takes what it says: other requests
and the event loop do not wait for it, and it ends when its caller goes away.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from dstack.server.api.requests import read_body
from dstack.server.db.errors import DatabaseError
from dstack.server.services.context import Context
from dstack.server.services.errors import BadRequest
from dstack.server.services.heal import Healer
from dstack.server.services.ledger import Scope
from dstack.server.services.repositories import RepositoryRef
from dstack.server.services.verify import Check, Frame, scope_of
from dstack.snapshots.errors import SnapshotError
from dstack.snapshots.spread import Spread

Handler = Callable[[Request], Awaitable[Response]]
BEAT = 10.0
"""Seconds after which a caller hears that a long step is still under way."""
_TOGETHER = 64
"""Frames that are handed over at once."""


class VerifyBody(msgspec.Struct, frozen=True):
    run: str | None = None
    tag: str | None = None
    repository: RepositoryRef | None = None
    quick: bool = False
    repair: bool = False
    rebuild: bool = False


def verify_routes(context: Context) -> list[tuple[str, str, Handler]]:
    healing = threading.Lock()

    async def verify(request: Request) -> Response:
        body = await read_body(request, VerifyBody)
        if body.rebuild and (body.run or body.tag or body.quick or body.repair):
            raise BadRequest("the index is made again for the whole store, and by itself")
        scope = await context.database.aread(lambda tx: scope_of(tx, context, body.run, body.tag, body.repository))
        frames = _heal_alone(context, scope, body, healing) if _heals(body) else _frames(context, scope, body)
        return StreamingResponse(_streamed(context, frames), media_type="application/x-dstack-frames")

    return [("POST", "/store/verify", verify)]


def _heals(body: VerifyBody) -> bool:
    return body.repair or body.rebuild


def _heal_alone(context: Context, scope: Scope, body: VerifyBody, healing: threading.Lock) -> Iterator[Frame]:
    if not healing.acquire(blocking=False):
        yield {"t": "error", "message": "the store is being repaired already: wait until that is done"}
        return
    try:
        yield from _frames(context, scope, body)
    finally:
        healing.release()


def _frames(context: Context, scope: Scope, body: VerifyBody) -> Iterator[Frame]:
    with Spread() as spread:
        if body.rebuild:
            yield from Healer(context, spread).rebuild()
            yield {"t": "end"}
            return
        check = Check(context, scope, spread, quick=body.quick)
        yield from check.frames()
        if body.repair and check.damages:
            yield from Healer(context, spread).repair()
        yield {"t": "end", **check.summary()}


async def _streamed(context: Context, frames: Iterator[Frame]) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    thread = ThreadPoolExecutor(1, thread_name_prefix="dstack-verify")
    try:
        with context.bus.subscribe(["shutdown"]) as ending:
            while "shutdown" not in await ending.wait_topics(0):  # then there is no end frame: it was cut short
                step = loop.run_in_executor(thread, _some, frames)
                while not (await asyncio.wait([step], timeout=BEAT))[0]:
                    yield _line({"t": "beat"})
                if not step.result():
                    return
                yield b"".join(map(_line, step.result()))
    finally:
        # In the thread that ran it, whose step may still be under way: its temporary database belongs to that.
        thread.submit(_close, frames)
        thread.shutdown(wait=False)


def _some(frames: Iterator[Frame]) -> list[Frame]:
    """The next frames; an empty list at their end. What ends them early is told as one of them."""
    found: list[Frame] = []
    try:
        for frame in frames:
            found.append(frame)
            if frame["t"] in ("done", "total") or len(found) >= _TOGETHER:
                return found
    except (SnapshotError, DatabaseError, OSError) as error:
        found.append({"t": "error", "message": str(error)})
    return found


def _close(frames: Iterator[Frame]) -> None:
    close = getattr(frames, "close", None)
    if close is not None:
        close()


def _line(frame: Frame) -> bytes:
    return msgspec.json.encode(frame) + b"\n"
