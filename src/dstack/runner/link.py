"""The runner's line to its server: msgpack messages over one connection per kind of call, off the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from dstack import embedded
from dstack.client.wire import SocketTransport, WireError
from dstack.protocol import messages
from dstack.runner.settings import Settings

if TYPE_CHECKING:
    from dstack.client.wire import Transport

T = TypeVar("T")
_HEADERS = {"content-type": "application/msgpack", messages.PROTOCOL_HEADER: str(messages.PROTOCOL)}


class LinkDown(Exception):
    """The server gave no answer, or one that asks to try later: the same message is sent again."""


class Refused(Exception):
    """The server will not take this message, however often it is sent; the text is for people."""


class Link:
    """Calls of one runner. Each `Channel` has a connection and a thread, so a held poll delays no event."""

    def __init__(self, settings: Settings) -> None:
        self._connect = connector(settings)
        self.polls = Channel(self._connect, "poll")
        self.events = Channel(self._connect, "events")
        self.logs = Channel(self._connect, "logs")

    def close(self) -> None:
        for channel in (self.polls, self.events, self.logs):
            channel.close()


class Channel:
    """One connection, one call at a time."""

    def __init__(self, connect: Callable[[], Transport], name: str) -> None:
        self._connect = connect
        self._transport: Transport | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"dstack-{name}")
        self._closing = threading.Event()

    async def call(self, route: str, message: Any, reply: type[T], patience: float = 30.0) -> T:
        """POST `message` and return the decoded answer, if it comes within `patience` s. Raises LinkDown or Refused."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._call, route, message, reply, patience)

    def close(self) -> None:
        """Give up a call under way and end the thread."""
        self._closing.set()
        if self._transport is not None:
            self._transport.close()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _call(self, route: str, message: Any, reply: type[T], timeout: float) -> T:
        try:
            if self._transport is None:
                self._transport = self._connect()
            body = messages.encode(message)
            answer = self._transport.request("POST", f"/rpc/v1/{route}", headers=_HEADERS, body=body, timeout=timeout)
            content = answer.read()
        except (WireError, OSError) as error:
            self._drop()
            raise LinkDown(str(error)) from error
        try:
            if answer.status == 200:
                return msgspec.msgpack.decode(content, type=reply)
            refusal = msgspec.msgpack.decode(content, type=messages.ErrorReply)
        except msgspec.MsgspecError as error:
            self._drop()
            raise LinkDown(f"HTTP {answer.status} with an answer that cannot be read: {error}") from error
        text = f"{refusal.message} ({refusal.hint})" if refusal.hint else refusal.message
        if answer.status >= 500:
            raise LinkDown(text)
        raise Refused(text)

    def _drop(self) -> None:
        if self._transport is not None and not self._closing.is_set():
            self._transport.close()
        self._transport = None


def connector(settings: Settings) -> Callable[[], Transport]:
    """How to reach the server; each call makes a new connection."""
    if settings.server:
        from dstack.client.remote import RemoteTransport

        return lambda: RemoteTransport(settings.server)
    return lambda: SocketTransport(socket_of(settings.home))


def socket_of(home: Path) -> str:
    """Where this home's server listens: as its lock says, else where a new one would."""
    holder = embedded.read_holder(home)
    return holder["socket"] if holder else embedded.socket_path(home)
