"""A small blocking HTTP/1.1 client on raw sockets: Unix sockets and plain TCP, keep-alive, streamed answers.

The command line's hot path stands on it, so it imports nothing heavier than `socket`; `http.client` alone costs more
than a whole `dstack run` may. Other servers are reached through `dstack.client.remote`, which has the same interface.

    WireError         the request did not get a whole answer
    ├── ConnectFailed nothing was sent: the request may be made again as it is
    ├── Cut           the connection ended after sending: made again only if repeating is safe
    ├── TimedOut      no byte arrived within the time that was allowed
    └── BadAnswer     what arrived is not HTTP
"""

from __future__ import annotations

import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Protocol

    Body = bytes | bytearray | memoryview

    class Answer(Protocol):
        """The head of an answer, and its body as a stream. `headers` have lower-case names."""

        status: int
        headers: dict[str, str]

        def read_some(self) -> bytes | memoryview:
            """The next bytes of the body, as they arrive; empty at its end. Valid until the next call."""
            ...

        def read(self) -> bytes:
            """The rest of the body."""
            ...

    class Transport(Protocol):
        """A connection, or a pool of them, to one server."""

        def request(
            self,
            method: str,
            target: str,
            *,
            headers: Mapping[str, str] | None = None,
            body: Body = b"",
            timeout: float = ...,
        ) -> Answer: ...

        def close(self) -> None: ...


DEFAULT_TIMEOUT = 30.0
_BUFFER = 1 << 20
_MAX_HEAD = 1 << 16


class WireError(Exception):
    """The request did not get a whole answer."""


class ConnectFailed(WireError):
    """The server does not listen there; nothing was sent."""


class Cut(WireError):
    """The connection ended before the answer was complete."""


class TimedOut(WireError):
    """The server took longer to say something than the caller allows."""


class BadAnswer(WireError):
    """The other side does not speak HTTP/1.1."""


def quote(text: str) -> str:
    """`text` percent-encoded for one path segment or query value (RFC 3986 §2.1)."""
    return "".join(
        chr(byte) if byte < 128 and (chr(byte).isalnum() or byte in b"-._~") else f"%{byte:02X}"
        for byte in text.encode("utf-8", "surrogateescape")
    )


class SocketTransport:
    """One keep-alive connection to `address`: a path (Unix socket) or a (host, port) pair. Not for several threads."""

    def __init__(self, address: str | tuple[str, int], *, headers: Mapping[str, str] | None = None) -> None:
        self.address = address
        host = "localhost" if isinstance(address, str) else f"{address[0]}:{address[1]}"
        self._fixed = f"host: {host}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        self._socket: socket.socket | None = None
        self._buffer = bytearray(_BUFFER)
        self._start = 0
        self._end: int = 0
        self._answer: SocketAnswer | None = None

    def connect(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Open the connection now, to learn whether somebody listens. Raises ConnectFailed."""
        if self._socket is not None:
            return
        try:
            if isinstance(self.address, str):
                connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                connection.settimeout(timeout)
                try:
                    connection.connect(self.address)
                except BaseException:
                    connection.close()
                    raise
            else:
                connection = socket.create_connection(self.address, timeout)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            raise ConnectFailed(f"cannot connect to {self._where()}: {error.strerror or error}") from error
        self._socket = connection
        self._start = self._end = 0

    def request(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body = b"",
        timeout: float = DEFAULT_TIMEOUT,
    ) -> SocketAnswer:
        """Send one request and return once the head of its answer is there. `timeout`: seconds without a byte."""
        if self._answer is not None and not self._answer.finished:
            self.close()
        reused = self._socket is not None
        try:
            return self._exchange(method, target, headers, body, timeout)
        except Cut:
            # A server may close an idle connection while the request is on its way; a GET may simply be repeated.
            if not reused or method not in ("GET", "HEAD"):
                raise
            return self._exchange(method, target, headers, body, timeout)

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._answer = None

    def _exchange(
        self, method: str, target: str, headers: Mapping[str, str] | None, body: Body, timeout: float
    ) -> SocketAnswer:
        self.connect(timeout)
        connection = self._socket
        assert connection is not None
        connection.settimeout(timeout)
        extra = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = f"{method} {target} HTTP/1.1\r\n{self._fixed}{extra}content-length: {_length(body)}\r\n\r\n"
        try:
            _send(connection, head.encode("latin-1"), body)
        except TimeoutError as error:
            self.close()
            raise TimedOut(f"{self._where()} took nothing for {timeout:g} s") from error
        except OSError as error:
            self.close()
            raise Cut(f"the connection to {self._where()} broke: {error.strerror or error}") from error
        status, answer_headers = self._read_head()
        self._answer = SocketAnswer(self, status, answer_headers, has_body=method != "HEAD")
        return self._answer

    def _read_head(self) -> tuple[int, dict[str, str]]:
        while True:
            status_line, *lines = self.take_until(b"\r\n\r\n").decode("latin-1").split("\r\n")
            parts = status_line.split(" ", 2)
            if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdigit():
                self.close()
                raise BadAnswer(f"{self._where()} does not answer in HTTP/1.1: {status_line[:80]!r}")
            headers: dict[str, str] = {}
            for line in lines:
                name, _, value = line.partition(":")
                headers[name.strip().lower()] = value.strip()
            if parts[0] == "HTTP/1.0":
                headers.setdefault("connection", "close")
            if int(parts[1]) >= 200:  # 1xx are announcements; the answer follows
                return int(parts[1]), headers

    def take_until(self, mark: bytes) -> bytes:
        """The bytes before `mark`, which is consumed too. Heads and chunk sizes only, so at most 64 KiB."""
        searched = self._start
        while True:
            found = self._buffer.find(mark, searched, self._end)
            if found - self._start > _MAX_HEAD or (found < 0 and self._end - self._start > _MAX_HEAD):
                self.close()
                raise BadAnswer(f"{self._where()} sent a head of more than {_MAX_HEAD >> 10} KiB")
            if found >= 0:
                taken = bytes(self._buffer[self._start : found])
                self._start = found + len(mark)
                return taken
            kept = self._end - self._start
            self._fill()
            searched = max(self._start, self._start + kept - len(mark) + 1)

    def take(self, limit: int) -> memoryview:
        """Between 1 and `limit` bytes, valid until the next call."""
        if self._start == self._end:
            self._fill()
        stop = min(self._end, self._start + limit)
        taken = memoryview(self._buffer)[self._start : stop]
        self._start = stop
        return taken

    def at_end(self) -> bool:
        """Whether the server has closed the connection and nothing is left to take."""
        return self._start == self._end and self._receive() == 0

    def _fill(self) -> None:
        """Receive at least one byte behind what is buffered. Raises Cut at the end of the connection."""
        if self._receive() == 0:
            self.close()
            raise Cut(f"{self._where()} closed the connection before its answer was complete")

    def _receive(self) -> int:
        """How many bytes were received behind what is buffered; 0 at the end of the connection."""
        if self._socket is None:
            raise Cut(f"the connection to {self._where()} is closed")
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == len(self._buffer):
            rest = self._buffer[self._start : self._end]
            self._buffer[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        try:
            received = self._socket.recv_into(memoryview(self._buffer)[self._end :])
        except TimeoutError as error:
            self.close()
            raise TimedOut(f"{self._where()} said nothing for too long") from error
        except OSError as error:
            self.close()
            raise Cut(f"the connection to {self._where()} broke: {error.strerror or error}") from error
        self._end += received
        return received

    def _where(self) -> str:
        return self.address if isinstance(self.address, str) else f"{self.address[0]}:{self.address[1]}"


class SocketAnswer:
    """An answer whose body is read as it arrives: by length, in chunks, or until the connection ends."""

    def __init__(
        self, transport: SocketTransport, status: int, headers: dict[str, str], *, has_body: bool = True
    ) -> None:
        self.status = status
        self.headers = headers
        self._transport = transport
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        self._keep = headers.get("connection", "").lower() != "close"
        length = headers.get("content-length")
        has_body = has_body and status not in (204, 304)
        self._until_end = has_body and not self._chunked and length is None
        self._left = 0 if self._chunked else int(length or 0)
        self._between = False
        """Whether the line end of a chunk that was handed out is still to be taken."""
        self.finished = False
        if not has_body or (not self._chunked and not self._until_end and self._left == 0):
            self._finish()

    def read_some(self) -> bytes | memoryview:
        """The next bytes of the body, as they arrive; empty at its end. Valid until the next call."""
        if self.finished:
            return b""
        if self._until_end:
            if self._transport.at_end():
                self._finish()
                return b""
            return self._transport.take(_BUFFER)
        if self._chunked and self._left == 0 and not self._next_chunk():
            return b""
        piece = self._transport.take(self._left)
        self._left -= len(piece)
        if self._left == 0:
            if self._chunked:
                # Not taken yet: that may move the buffer that `piece` looks into.
                self._between = True
            else:
                self._finish()
        return piece

    def read(self) -> bytes:
        """The rest of the body."""
        pieces: list[bytes] = []
        while piece := self.read_some():
            pieces.append(bytes(piece))
        return b"".join(pieces)

    def _next_chunk(self) -> bool:
        if self._between:
            self._transport.take_until(b"\r\n")
            self._between = False
        line = self._transport.take_until(b"\r\n")
        try:
            self._left = int(line.split(b";", 1)[0], 16)
        except ValueError:
            self._transport.close()
            raise BadAnswer(f"a chunk starts with {line[:40]!r} instead of its size") from None
        if self._left:
            return True
        while self._transport.take_until(b"\r\n"):
            pass  # trailers, which nobody reads
        self._finish()
        return False

    def _finish(self) -> None:
        self.finished = True
        if not self._keep or self._until_end:
            self._transport.close()


def _length(body: Body) -> int:
    return body.nbytes if isinstance(body, memoryview) else len(body)


def _send(connection: socket.socket, head: bytes, body: Body) -> None:
    if _length(body) < 1 << 16:
        connection.sendall(head + bytes(body))
    else:
        connection.sendall(head)
        connection.sendall(body)
