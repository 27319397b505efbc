"""A server that says what a test tells it to, over a Unix socket: for what a real one does rarely or never."""

from __future__ import annotations

import json
import socketserver
import tempfile
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

PROJECT = "/api/v1/projects/main"


@dataclass
class Call:
    """One request that arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Reply:
    """What is answered. `stream` is sent in chunks; `cut` ends the connection without the stream's proper end."""

    status: int = 200
    body: Any = None
    stream: Iterable[bytes] | None = None
    cut: bool = False
    close: bool = False
    """End the connection before any answer."""
    headers: dict[str, str] = field(default_factory=dict[str, str])


Route = Callable[[Call], Reply]


def frames(*items: dict[str, Any] | bytes) -> list[bytes]:
    """Frames as bytes; bytes after a dict are its raw bytes."""
    return [item if isinstance(item, bytes) else json.dumps(item).encode() + b"\n" for item in items]


def log(job: str, offset: int, data: bytes, attempt: int = 1) -> list[bytes]:
    return frames({"t": "log", "job": job, "attempt": attempt, "offset": offset, "n": len(data)}, data)


def error(status: int, code: str, message: str, hint: str | None = None, diagnostics: Any = ()) -> Reply:
    body = {"code": code, "message": message, "hint": hint, "diagnostics": list(diagnostics)}
    return Reply(status, {"error": body})


@dataclass
class StubApi:
    """Routes by `METHOD /path`; a list of replies is used up one by one, its last one again and again."""

    routes: dict[str, Route | list[Reply]] = field(default_factory=dict[str, Route | list[Reply]])
    calls: list[Call] = field(default_factory=list[Call])

    def __post_init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="dstack-stub-")
        self.path = str(Path(self._folder.name, "s"))
        self._server = socketserver.ThreadingUnixStreamServer(self.path, _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """What `DSTACK_SERVER` is set to."""
        return f"unix:{self.path}"

    def on(self, route: str, *replies: Reply | Route) -> None:
        """Set the replies of `METHOD path`; a path that starts with `…` lies in the project."""
        method, path = route.split(" ", 1)
        key = f"{method} {path.replace('…', PROJECT)}"
        if len(replies) == 1 and callable(replies[0]):
            self.routes[key] = replies[0]
        else:
            self.routes[key] = [reply for reply in replies if isinstance(reply, Reply)]

    def answer(self, call: Call) -> Reply:
        self.calls.append(call)
        route = self.routes.get(f"{call.method} {call.path}")
        if route is None:
            return error(404, "not-found", f"the stub has no {call.method} {call.path}")
        if callable(route):
            return route(call)
        return route.pop(0) if len(route) > 1 else route[0]

    def named(self, route: str) -> list[Call]:
        method, path = route.split(" ", 1)
        path = path.replace("…", PROJECT)
        return [call for call in self.calls if (call.method, call.path) == (method, path)]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._folder.cleanup()


def _handler(stub: StubApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            try:
                self.raw_requestline = self.rfile.readline(65537)
            except ConnectionResetError:
                self.raw_requestline = b""  # a client that left without reading all that it was sent
            if not self.raw_requestline or not self.parse_request():
                self.close_connection = True
                return
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", "0")))
            self._send(stub.answer(Call(self.command, parts.path, query, headers, body)))

        def _send(self, reply: Reply) -> None:
            try:
                self._write(reply)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def _write(self, reply: Reply) -> None:
            if reply.close:
                self.close_connection = True
                return
            if reply.stream is None:
                content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                headers = {**reply.headers, "content-length": str(len(content))}
                head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                self.wfile.write(f"HTTP/1.1 {reply.status} X\r\n{head}\r\n".encode() + content)
                return
            self.wfile.write(f"HTTP/1.1 {reply.status} X\r\ntransfer-encoding: chunked\r\n\r\n".encode())
            for piece in reply.stream:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if reply.cut:
                self.close_connection = True
                return
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            pass

    return Handler
