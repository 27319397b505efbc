"""Tell other replicas what this one committed, over PostgreSQL's LISTEN and NOTIFY.

Topics are sent after the commit on a connection of their own: NOTIFY inside a transaction makes all commits of the
server wait for each other. What is lost while the connection is down costs its hearers a tick; after a reconnect
everybody here is woken, because nobody knows what was missed.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
from collections.abc import Iterable, Iterator

import psycopg

from dstack.server.bus import Bus
from dstack.server.db.engine import parse_url

CHANNEL = "dstack"

PAYLOAD_LIMIT = 7_900
"""Bytes of topics in one message; PostgreSQL allows less than 8,000."""

RECONNECT_SECONDS = 1.0

_log = logging.getLogger(__name__)


class Relay:
    """Feeds `bus` with the topics of other replicas, and theirs with ours.

    Between `start` and `close`, `publish_many` is what `Database.open` takes as `on_commit`.
    """

    def __init__(self, url: str, bus: Bus) -> None:
        parsed = parse_url(url)
        self._where = parsed.render_as_string(hide_password=True)
        self._conninfo = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
        self._bus = bus
        self._stopping = threading.Event()
        self._listening = threading.Event()
        self._lock = threading.Lock()
        self._outgoing: set[str] = set()
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="dstack-relay", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def publish_many(self, topics: Iterable[str]) -> None:
        """Wake this replica's waiters at once and the others' shortly."""
        topics = set(topics)
        self._bus.publish_many(topics)
        with self._lock:
            first = not self._outgoing
            self._outgoing |= topics
        if first:
            self._wake()

    def wait_listening(self, timeout: float) -> bool:
        """Whether other replicas can be heard, waiting up to `timeout` seconds for it."""
        return self._listening.wait(timeout)

    def close(self) -> None:
        """Stop; what was not sent yet costs its hearers a tick."""
        self._stopping.set()
        self._wake()
        self._thread.join()
        self._waker.close()
        self._woken.close()

    def _wake(self) -> None:
        try:
            self._waker.send(b"\0")
        except BlockingIOError:
            return  # so many wake-ups are waiting to be read that one more says nothing

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with psycopg.connect(self._conninfo, autocommit=True, connect_timeout=5) as connection:
                    self._serve(connection)
            except psycopg.Error as error:
                self._listening.clear()
                _log.warning("other replicas cannot be reached through %s: %s", self._where, error)
                self._stopping.wait(RECONNECT_SECONDS)

    def _serve(self, connection: psycopg.Connection) -> None:
        connection.execute(f"LISTEN {CHANNEL}")
        self._listening.set()
        self._bus.publish_all()
        with selectors.DefaultSelector() as selector:
            selector.register(connection.fileno(), selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._stopping.is_set():
                self._send(connection)
                for heard in connection.notifies(timeout=0):
                    if heard.pid != connection.info.backend_pid:
                        self._bus.publish_many(heard.payload.split("\n"))
                if any(key.fileobj is self._woken for key, _ in selector.select()):
                    self._woken.recv(4096)

    def _send(self, connection: psycopg.Connection) -> None:
        with self._lock:
            topics, self._outgoing = self._outgoing, set()
        try:
            for payload in payloads(topics):
                connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, payload))
        except psycopg.Error:
            with self._lock:
                self._outgoing |= topics
            raise


def payloads(topics: Iterable[str], limit: int = PAYLOAD_LIMIT) -> Iterator[str]:
    """The topics as messages of at most `limit` bytes, one topic a line; a topic is far shorter than that."""
    lines: list[str] = []
    size = 0
    for topic in sorted(topics):
        length = len(topic.encode()) + 1
        if lines and size + length > limit:
            yield "\n".join(lines)
            lines, size = [], 0
        lines.append(topic)
        size += length
    if lines:
        yield "\n".join(lines)
