"""Long work that tells how far it is, as frames: one JSON line each, as `logs` has them.

The work runs in a thread of its own, a step at a time, and stands still while nobody takes what it says: other requests
and the event loop do not wait for it, and it ends when its caller goes away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from starlette.responses import Response, StreamingResponse

from dstack.server.db.errors import DatabaseError
from dstack.server.services.context import Context
from dstack.server.services.errors import ServiceError
from dstack.snapshots.errors import SnapshotError

Frame = dict[str, Any]
BEAT = 10.0
"""Seconds after which a caller hears that a long step is still under way."""
_TOGETHER = 64
"""Frames that are handed over at once."""


def stream(context: Context, frames: Iterator[Frame]) -> Response:
    """Answer with the frames of some work. What ends it early is told as an `error` frame; a server that ends says
    nothing more, so that the `end` frame is not there."""
    return StreamingResponse(_streamed(context, frames), media_type="application/x-dstack-frames")


async def _streamed(context: Context, frames: Iterator[Frame]) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    thread = ThreadPoolExecutor(1, thread_name_prefix="dstack-stream")
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
    except ServiceError as error:
        found.append({"t": "error", "message": error.message, "hint": error.hint})
    return found


def _close(frames: Iterator[Frame]) -> None:
    close = getattr(frames, "close", None)
    if close is not None:
        close()


def _line(frame: Frame) -> bytes:
    return msgspec.json.encode(frame) + b"\n"
