"""A reader of a run's frames, as the command line is one: it remembers where it is and can go on from there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec

from dstack.server.services import following
from tests.support.world import World

PATIENCE = 30.0


class Reader:
    """`logs` is what it has of each job, attempts one after another; `cursor` is where it would go on."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.heads: list[dict[str, Any]] = []
        self.logs: dict[str, bytes] = {}
        self.cursor: dict[str, tuple[int, int]] = {}
        self.ended = False
        self._frames: AsyncGenerator[bytes] | None = None
        self._rest = b""

    async def open(self, *, follow: bool = True, **more: Any) -> None:
        """Ask for the frames that are missing."""
        await self.cut()
        cursor = json.loads(json.dumps(self.cursor))
        frames = await following.frames(self.world.context, self.name, follow=follow, cursor=dict(cursor), **more)
        assert isinstance(frames, AsyncGenerator)
        self._frames = frames

    async def cut(self) -> None:
        """Lose the connection, and with it half a frame."""
        if self._frames is not None:
            await self._frames.aclose()
        self._frames, self._rest = None, b""

    async def piece(self) -> bool:
        """Read one piece, however many frames it is; False at the end of the stream."""
        assert self._frames is not None
        try:
            self._rest += await asyncio.wait_for(anext(self._frames), PATIENCE)
        except StopAsyncIteration:
            self._frames = None
            return False
        self._take()
        return True

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            assert await self.piece(), f"the stream ended before; last frames: {self.heads[-3:]}"

    async def to_end(self) -> None:
        while await self.piece():
            pass
        assert self.ended, "the end frame comes last"

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [head for head in self.heads if head["t"] == kind]

    def statuses(self, job: str) -> list[str]:
        return [head["status"] for head in self.of("job") if head["job"] == job]

    def _take(self) -> None:
        while (end := self._rest.find(b"\n")) >= 0:
            head: dict[str, Any] = msgspec.json.decode(self._rest[:end])
            size = head.get("n", 0)
            if len(self._rest) < end + 1 + size:
                return
            data, self._rest = self._rest[end + 1 : end + 1 + size], self._rest[end + 1 + size :]
            assert not self.ended, "nothing comes after the end frame"
            self.heads.append(head)
            if head["t"] == "log":
                self._log(head, data)
            self.ended = head["t"] == "end"

    def _log(self, head: dict[str, Any], data: bytes) -> None:
        job, attempt, offset = head["job"], head["attempt"], head["offset"]
        known, next_offset = self.cursor.get(job, (attempt, 0))
        assert (attempt, offset) >= (known, next_offset), "a byte came twice"
        self.logs[job] = self.logs.get(job, b"") + data
        self.cursor[job] = (attempt, offset + len(data))
