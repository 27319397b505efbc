"""Servers that are elsewhere, over httpx2, behind the same interface as the client's own sockets."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dstack.client.frames import read_frames
from dstack.client.remote import RemoteTransport
from dstack.client.wire import ConnectFailed, Cut, TimedOut


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    release = threading.Event()

    def do_GET(self) -> None:
        self._chunks()
        if self.path.startswith("/silent"):
            self.release.wait(10)
        elif self.path.startswith("/cut"):
            self._chunk(b"hel")
            self.close_connection = True
            return
        else:
            for piece in (b'{"t":"log","job":"a","offset":0,', b'"n":5}\nhel', b"lo", b'{"t":"beat"}\n'):
                self._chunk(piece)
        self._chunk(b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        answer = json.dumps([self.headers["authorization"], self.headers["x-one"], len(body)]).encode()
        self.send_response(201)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _chunks(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def url() -> Iterator[str]:
    Handler.release.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    Handler.release.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def transport(url: str) -> Iterator[RemoteTransport]:
    transport = RemoteTransport(url, headers={"authorization": "Bearer x"})
    yield transport
    transport.close()


def test_a_call(transport: RemoteTransport) -> None:
    answer = transport.request("POST", "/", headers={"x-one": "1"}, body=memoryview(b"12345"))
    assert (answer.status, json.loads(answer.read())) == (201, ["Bearer x", "1", 5])


def test_frames_arrive_as_they_are_sent(transport: RemoteTransport) -> None:
    got = [(frame.get("t"), bytes(data)) for frame, data in read_frames(transport.request("GET", "/frames"))]
    assert [kind for kind, _ in got] == ["log", "log", "beat"]
    assert b"".join(data for _, data in got) == b"hello"


def test_an_answer_that_breaks_off_is_never_taken_for_whole(transport: RemoteTransport) -> None:
    with pytest.raises(Cut):
        transport.request("GET", "/cut").read()


def test_silence_has_a_limit(transport: RemoteTransport) -> None:
    with pytest.raises(TimedOut):
        transport.request("GET", "/silent", timeout=0.1).read()
    Handler.release.set()


def test_nobody_listens(url: str) -> None:
    transport = RemoteTransport("http://127.0.0.1:9")
    with pytest.raises(ConnectFailed):
        transport.request("GET", "/")
    transport.close()
