"""The HTTP client against bytes as servers send them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dstack.client.wire import BadAnswer, ConnectFailed, Cut, SocketTransport, TimedOut, quote

Script = Callable[[socket.socket], None]


class Server:
    """Accepts connections one after the other, each served by the next script."""

    def __init__(self, listener: socket.socket, scripts: list[Script]) -> None:
        self._listener = listener
        self._scripts = scripts
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        for script in self._scripts:
            connection, _ = self._listener.accept()
            with connection:
                script(connection)

    def join(self) -> None:
        self._thread.join(10)
        self._listener.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., SocketTransport]]:
    running: list[tuple[Server, SocketTransport]] = []

    def start(*scripts: Script) -> SocketTransport:
        path = str(tmp_path / f"s{len(running)}")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        transport = SocketTransport(path)
        running.append((Server(listener, list(scripts)), transport))
        return transport

    yield start
    for server, transport in running:
        transport.close()
        server.join()


def read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def says(*answers: bytes) -> Script:
    def script(connection: socket.socket) -> None:
        for answer in answers:
            if not read_request(connection):
                return
            connection.sendall(answer)

    return script


def trickles(answer: bytes) -> Script:
    """Byte by byte: every boundary is one between two packets."""

    def script(connection: socket.socket) -> None:
        read_request(connection)
        for at in range(len(answer)):
            connection.sendall(answer[at : at + 1])

    return script


LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;ext=1\r\nlo\r\n0\r\nX-Trailer: 1\r\n\r\n"
UNTIL_END = b"HTTP/1.0 200 OK\r\n\r\nhello"


@pytest.mark.parametrize("answer", [LENGTH, CHUNKED, UNTIL_END])
@pytest.mark.parametrize("how", [says, trickles])
def test_bodies_of_all_kinds(serve: Callable[..., SocketTransport], answer: bytes, how: Callable[..., Script]) -> None:
    got = serve(how(answer)).request("GET", "/")
    assert (got.status, got.read(), got.read_some()) == (200, b"hello", b"")


def test_one_connection_serves_several_requests(serve: Callable[..., SocketTransport]) -> None:
    transport = serve(says(LENGTH, CHUNKED, b"HTTP/1.1 204 No Content\r\n\r\n", LENGTH))
    bodies = [transport.request(method, "/").read() for method in ("GET", "POST", "DELETE", "POST")]
    assert bodies == [b"hello", b"hello", b"", b"hello"]


def test_an_announcement_before_the_answer_is_passed_over(serve: Callable[..., SocketTransport]) -> None:
    assert serve(says(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + LENGTH)).request("GET", "/").read() == b"hello"


def test_an_answer_that_was_not_read_whole_does_not_mix_with_the_next(serve: Callable[..., SocketTransport]) -> None:
    long = b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 3_000_000

    def broken_off(connection: socket.socket) -> None:
        try:
            says(long)(connection)
        except OSError:
            pass

    transport = serve(broken_off, says(LENGTH))
    assert transport.request("GET", "/").read_some()
    assert transport.request("GET", "/").read() == b"hello"


def test_a_large_body_arrives_whole_both_ways(serve: Callable[..., SocketTransport]) -> None:
    content = bytes(range(256)) * 20_000
    got: list[bytes] = []

    def echo(connection: socket.socket) -> None:
        body = read_request(connection).partition(b"\r\n\r\n")[2]
        got.append(body)
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        pieces = [body[at : at + 70_001] for at in range(0, len(body), 70_001)]
        connection.sendall(head + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n")

    answer = serve(echo).request("PUT", "/", body=memoryview(content))
    assert answer.read() == content
    assert got == [content]


def test_a_connection_closed_while_idle_is_opened_again_for_a_get(serve: Callable[..., SocketTransport]) -> None:
    transport = serve(says(LENGTH), says(LENGTH))
    assert transport.request("GET", "/").read() == b"hello"
    assert transport.request("GET", "/").read() == b"hello"


def test_a_post_is_not_repeated(serve: Callable[..., SocketTransport]) -> None:
    transport = serve(says(LENGTH))
    transport.request("GET", "/").read()
    with pytest.raises(Cut):
        transport.request("POST", "/")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ],
)
def test_an_answer_that_breaks_off_is_never_taken_for_whole(
    serve: Callable[..., SocketTransport], answer: bytes
) -> None:
    with pytest.raises(Cut):
        serve(says(answer)).request("POST", "/").read()


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
)
def test_what_is_not_http_is_said(serve: Callable[..., SocketTransport], answer: bytes) -> None:
    with pytest.raises(BadAnswer):
        serve(says(answer)).request("POST", "/").read()


def test_silence_has_a_limit(serve: Callable[..., SocketTransport]) -> None:
    heard = threading.Event()

    def silent(connection: socket.socket) -> None:
        read_request(connection)
        heard.wait(10)

    transport = serve(silent)
    with pytest.raises(TimedOut, match="said nothing"):
        transport.request("GET", "/", timeout=0.05)
    heard.set()


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(ConnectFailed, match="No such file"):
        SocketTransport(str(tmp_path / "none")).request("GET", "/")


def test_plain_tcp() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(listener, [says(LENGTH)])
    transport = SocketTransport(("127.0.0.1", listener.getsockname()[1]))
    assert transport.request("GET", "/").read() == b"hello"
    transport.close()
    server.join()


def test_names_are_quoted() -> None:
    assert quote("a b/ü?&:.-_~") == "a%20b%2F%C3%BC%3F%26%3A.-_~"
