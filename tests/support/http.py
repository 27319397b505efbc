"""The server's routes, asked as people and runners ask them, in the test's own process."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.testclient import TestClient

from dstack.server.api.routes import routes as api_routes
from dstack.server.rpc.routes import routes as rpc_routes
from tests.support.world import World

BASE = "/api/v1/projects/main"


class Asked:
    """`world` behind its routes; `ends` counts requests to shut down."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ends = 0
        routes = [*api_routes(world.context, self._end), *rpc_routes(world.context)]
        # A bug must come as the 500 that a client would see, not as an exception of the test.
        self.client = TestClient(Starlette(routes=routes), raise_server_exceptions=False)

    def _end(self) -> None:
        self.ends += 1

    def get(self, path: str, **query: Any) -> Any:
        """The JSON of a GET that must succeed."""
        return self.ok(self.client.get(f"{BASE}/{path}", params=query))

    def post(self, path: str, body: Any = None, status: int = 200, **headers: str) -> Any:
        """The JSON of a POST that must succeed."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ok(self.client.post(f"{BASE}/{path}", json=body, headers=headers), status)

    def ok(self, response: Any, status: int = 200) -> Any:
        assert response.status_code == status, (response.status_code, response.text)
        assert response.headers["content-type"] == "application/json"
        return response.json()

    def refused(self, response: Any, status: int, code: str | None = None) -> dict[str, Any]:
        """The error body of a response that must be an error in the one form there is."""
        assert response.status_code == status, (response.status_code, response.text)
        body = response.json()
        assert set(body) == {"error"}
        error = body["error"]
        assert {"code", "message", "hint", "diagnostics"} == set(error)
        assert error["message"]
        assert "Traceback" not in response.text
        if code is not None:
            assert error["code"] == code
        return error

    def packed(self, path: str, body: Any) -> Any:
        """The answer to a msgpack call of the store."""
        response = self.client.post(f"{BASE}/store/{path}", content=msgspec.msgpack.encode(body))
        assert response.status_code == 200, (response.status_code, response.text)
        return msgspec.msgpack.decode(response.content)

    def frames(self, name: str, **query: Any) -> list[tuple[dict[str, Any], bytes]]:
        """All frames of a log stream that ends by itself."""
        response = self.client.get(f"{BASE}/runs/{name}/logs", params=query)
        assert response.status_code == 200, response.text
        return split_frames(response.content)


def split_frames(data: bytes) -> list[tuple[dict[str, Any], bytes]]:
    """(head, bytes) of each frame of a stream; fails where it does not end with a whole frame."""
    found: list[tuple[dict[str, Any], bytes]] = []
    position = 0
    while position < len(data):
        end = data.index(b"\n", position)
        head: dict[str, Any] = msgspec.json.decode(data[position:end])
        position = end + 1 + head.get("n", 0)
        assert position <= len(data), "the stream ends within a frame"
        found.append((head, data[end + 1 : position]))
    return found
