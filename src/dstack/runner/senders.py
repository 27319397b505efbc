"""Events and log chunks on their way to the server: in order, in batches, again until they are acknowledged."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from uuid import UUID

from dstack.protocol import messages
from dstack.runner.link import Channel, LinkDown, Refused
from dstack.runner.settings import Settings

_log = logging.getLogger(__name__)
MAX_EVENTS = 512
GATHER = 0.005
"""Seconds for which events gather while jobs wait here anyway: fewer, larger requests."""
PATIENCE = 0.02
"""Seconds that a patient event waits at most."""
MAX_LOG_BYTES = 8 << 20


class EventSender:
    """What one request is under way for gathers in the next: a busy runner sends larger batches, not more."""

    def __init__(
        self, channel: Channel, settings: Settings, busy: Callable[[], bool], obey: Callable[[messages.Commands], None]
    ) -> None:
        """`obey` does what an answer brings. `busy`: jobs wait on this machine, so no early report helps anybody."""
        self._channel = channel
        self._settings = settings
        self._busy = busy
        self._obey = obey
        self._waiting: deque[tuple[messages.AttemptEvent, asyncio.Future[messages.EventAnswer]]] = deque()
        self._filled = asyncio.Event()
        self.identity: tuple[UUID, UUID] | None = None
        """(runner id, incarnation), once registered."""

    def send(self, event: messages.AttemptEvent, *, patient: bool = False) -> asyncio.Future[messages.EventAnswer]:
        """Queue an event; the future holds the server's answer to it.

        A `patient` one may wait a moment for the next: a short job's whole story goes in one request.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[messages.EventAnswer] = loop.create_future()
        self._waiting.append((event, future))
        if not patient:
            self._filled.set()
        elif len(self._waiting) == 1:
            loop.call_later(PATIENCE, self._filled.set)
        return future

    async def run(self) -> None:
        """Send for ever."""
        while True:
            await self._filled.wait()
            if self._busy():
                await asyncio.sleep(GATHER)
            if not self._waiting:
                self._filled.clear()  # a patient event's moment, which went with an earlier request
                continue
            batch = [self._waiting[index] for index in range(min(len(self._waiting), MAX_EVENTS))]
            answers = await self._deliver(tuple(event for event, _ in batch))
            for (event, future), answer in zip(batch, answers, strict=True):
                self._waiting.popleft()
                if answer.outcome == "rejected":
                    _log.warning(
                        "attempt %s: %s was rejected: %s", event.attempt_id, type(event).__name__, answer.detail
                    )
                if not future.done():
                    future.set_result(answer)
            if not self._waiting:
                self._filled.clear()

    async def _deliver(self, events: tuple[messages.AttemptEvent, ...]) -> tuple[messages.EventAnswer, ...]:
        pause = self._settings.retry_first
        while True:
            if self.identity is not None:
                runner_id, incarnation = self.identity
                request = messages.EventsRequest(runner_id=runner_id, incarnation=incarnation, events=events)
                try:
                    reply = await self._channel.call("events", request, messages.EventsReply)
                    self._obey(reply.commands)
                    return reply.answers
                except LinkDown as error:
                    _log.info("events wait for the server: %s", error)
                except Refused as error:
                    _log.error("the server refused %d events: %s", len(events), error)
                    refused = messages.EventAnswer(outcome="rejected", detail=str(error))
                    return (refused,) * len(events)
            await asyncio.sleep(pause)
            pause = min(pause * 2, self._settings.retry_last)


class LogSender:
    """One request at a time carries the waiting chunks of all streams."""

    def __init__(self, channel: Channel, settings: Settings) -> None:
        self._channel = channel
        self._settings = settings
        self._waiting: list[tuple[messages.LogChunk, asyncio.Future[int]]] = []
        self._filled = asyncio.Event()
        self.runner_id: UUID | None = None

    async def send(self, chunk: messages.LogChunk) -> int:
        """The next offset that the server wants of the stream; STREAM_OVER when it takes no more of it."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((chunk, future))
        self._filled.set()
        return await future

    async def run(self) -> None:
        """Send for ever."""
        while True:
            await self._filled.wait()
            batch: list[tuple[messages.LogChunk, asyncio.Future[int]]] = []
            size = 0
            while self._waiting and (not batch or size < MAX_LOG_BYTES):
                batch.append(self._waiting.pop(0))
                size += len(batch[-1][0].data)
            if not self._waiting:
                self._filled.clear()
            offsets = await self._deliver(tuple(chunk for chunk, _ in batch))
            for (_, future), offset in zip(batch, offsets, strict=True):
                if not future.done():
                    future.set_result(offset)

    async def _deliver(self, chunks: tuple[messages.LogChunk, ...]) -> tuple[int, ...]:
        pause = self._settings.retry_first
        while True:
            if self.runner_id is not None:
                request = messages.LogsRequest(runner_id=self.runner_id, chunks=chunks)
                try:
                    return (await self._channel.call("logs", request, messages.LogsReply)).next_offsets
                except LinkDown as error:
                    _log.info("logs wait for the server: %s", error)
                except Refused as error:
                    if len(chunks) == 1:
                        _log.error("the server refused a piece of a log (%s): %s", chunks[0].attempt_id, error)
                        return (messages.STREAM_OVER,)
                    return await self._each_alone(chunks)
            await asyncio.sleep(pause)
            pause = min(pause * 2, self._settings.retry_last)

    async def _each_alone(self, chunks: tuple[messages.LogChunk, ...]) -> tuple[int, ...]:
        """One of them is bad, and that is not to cost the other streams theirs."""
        found: list[int] = []
        for chunk in chunks:
            found.extend(await self._deliver((chunk,)))
        return tuple(found)
