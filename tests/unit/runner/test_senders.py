"""Pieces of logs on one line to the server: what it refuses costs no other stream anything."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dstack.protocol import messages
from dstack.runner.link import LinkDown, Refused
from dstack.runner.senders import LogSender
from dstack.runner.settings import Settings


class Line:
    """Takes whole requests, or raises what `fails` makes of one."""

    def __init__(self, fails: Callable[[messages.LogsRequest], Exception | None]) -> None:
        self.fails = fails
        self.calls = 0

    async def call(self, route: str, message: messages.LogsRequest, reply: type) -> messages.LogsReply:
        assert route == "logs"
        self.calls += 1
        error = self.fails(message)
        if error is not None:
            raise error
        return messages.LogsReply(next_offsets=tuple(chunk.offset + len(chunk.data) for chunk in message.chunks))


def sent(folder: Path, line: Line, *data: bytes) -> list[int]:
    """The answers to pieces of as many streams, which go in one request."""

    async def course() -> list[int]:
        channel: Any = line
        sender = LogSender(channel, Settings(home=folder, retry_first=0.0, retry_last=0.0))
        sender.runner_id = uuid.uuid4()
        chunks = [messages.LogChunk(attempt_id=uuid.uuid4(), offset=0, data=each) for each in data]
        waiting = [asyncio.ensure_future(sender.send(chunk)) for chunk in chunks]
        await asyncio.sleep(0)
        running = asyncio.create_task(sender.run())
        found = await asyncio.gather(*waiting)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return list(found)

    return asyncio.run(course())


def test_streams_share_a_request(tmp_path: Path) -> None:
    line = Line(lambda _: None)
    assert sent(tmp_path, line, b"a", b"bb") == [1, 2]
    assert line.calls == 1


def test_a_piece_that_is_refused_is_dropped_alone(tmp_path: Path) -> None:
    line = Line(lambda message: Refused("bad") if any(chunk.data == b"bad" for chunk in message.chunks) else None)
    assert sent(tmp_path, line, b"a", b"bad", b"ccc") == [1, messages.STREAM_OVER, 3]


def test_a_server_that_is_away_is_asked_again(tmp_path: Path) -> None:
    failures = [LinkDown("away"), LinkDown("away")]
    line = Line(lambda _: failures.pop() if failures else None)
    assert sent(tmp_path, line, b"a", b"bb") == [1, 2]
    assert line.calls == 3
