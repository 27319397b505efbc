"""Servers that are elsewhere: the interface of `dstack.client.wire` over httpx2, with TLS and proxies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import httpx2

from dstack.client.wire import DEFAULT_TIMEOUT, ConnectFailed, Cut, TimedOut, WireError


class RemoteTransport:
    """A pool of connections to the server at `url`; with `verify` false its certificate is not checked."""

    def __init__(self, url: str, *, headers: Mapping[str, str] | None = None, verify: bool = True) -> None:
        self._client = httpx2.Client(base_url=url, headers=dict(headers or {}), verify=verify)

    def request(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | bytearray | memoryview = b"",
        timeout: float = DEFAULT_TIMEOUT,
    ) -> RemoteAnswer:
        """Send one request and return once the head of its answer is there. `timeout`: seconds without a byte."""
        request = self._client.build_request(
            method, target, headers=dict(headers or {}), content=bytes(body), timeout=timeout
        )
        try:
            return RemoteAnswer(self._client.send(request, stream=True))
        except httpx2.HTTPError as error:
            raise _wire_error(error) from error

    def close(self) -> None:
        self._client.close()


class RemoteAnswer:
    """An answer whose body is read as it arrives."""

    def __init__(self, response: httpx2.Response) -> None:
        self.status = response.status_code
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        self._response = response
        self._pieces: Iterator[bytes] = response.iter_bytes()

    def read_some(self) -> bytes:
        """The next bytes of the body, as they arrive; empty at its end."""
        try:
            return next(self._pieces, b"")
        except httpx2.HTTPError as error:
            raise _wire_error(error) from error

    def read(self) -> bytes:
        """The rest of the body."""
        return b"".join(iter(self.read_some, b""))


def _wire_error(error: httpx2.HTTPError) -> WireError:
    if isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)):
        return ConnectFailed(str(error))
    if isinstance(error, httpx2.TimeoutException):
        return TimedOut(str(error) or "the server said nothing for too long")
    return Cut(str(error) or type(error).__name__)
