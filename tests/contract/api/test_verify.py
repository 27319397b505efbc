"""The route that checks the store: frames while it works, beside other requests, for as long as somebody reads them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import StreamingResponse

from dstack.server.api import streaming
from dstack.server.api import verify as route
from dstack.server.services import heal, named_leases
from dstack.server.services.catalog import store_of
from dstack.server.services.ledger import Frame
from dstack.server.services.verify import Check
from dstack.snapshots.capture import save
from dstack.snapshots.errors import StoreRefused
from tests.support.http import BASE, Asked
from tests.support.world import World

WAIT = 30.0


@pytest.fixture
def asked(world: World) -> Asked:
    return Asked(world)


def frames(asked: Asked, **body: Any) -> list[dict[str, Any]]:
    response = asked.client.post(f"{BASE}/store/verify", json=body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-dstack-frames"
    return [json.loads(line) for line in response.text.splitlines()]


def test_a_store_with_nothing_in_it(asked: Asked) -> None:
    assert frames(asked)[-1] == {"t": "end", "damages": 0, "packs": 0, "bytes": 0, "quick": False}
    assert frames(asked, repair=True)[-1]["t"] == "end"
    assert [frame["t"] for frame in frames(asked, rebuild=True)][-2:] == ["rebuilt", "end"]


def test_what_is_refused_is_refused_before_the_first_frame(asked: Asked) -> None:
    url = f"{BASE}/store/verify"
    asked.refused(asked.client.post(url, json={"run": "nobody-1"}), 404, "not-found")
    asked.refused(asked.client.post(url, json={"tag": "none"}), 404, "not-found")
    asked.refused(asked.client.post(url, json={"rebuild": True, "quick": True}), 400, "invalid")
    asked.refused(asked.client.post(url, content=b"[]"), 400, "invalid")


def test_what_ends_a_check_early_is_told(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Check) -> Iterator[Frame]:
        yield {"t": "total", "bytes": 1}
        raise StoreRefused("the store is away")

    monkeypatch.setattr(Check, "frames", fail)
    assert frames(asked) == [{"t": "total", "bytes": 1}, {"t": "error", "message": "the store is away"}]


class Held:
    """A check that stands still in the middle of a step until it is told to go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.inside = threading.Event()
        self.go_on = threading.Event()
        self.ended = threading.Event()

        def work(check: Check) -> Iterator[Frame]:
            try:
                yield {"t": "total", "bytes": 1}
                self.inside.set()
                assert self.go_on.wait(WAIT)
                yield {"t": "done", "bytes": 1}
            finally:
                self.ended.set()

        monkeypatch.setattr(Check, "frames", work)


async def started(world: World, **body: Any) -> AsyncIterator[bytes]:
    """The body of an answer, as the server would send it."""
    [(_, _, handler)] = route.verify_routes(world.context)
    return await answer(handler, body)


async def answer(handler: route.Handler, body: dict[str, Any]) -> AsyncIterator[bytes]:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}

    response = await handler(Request({"type": "http", "method": "POST", "headers": [], "query_string": b""}, receive))
    assert isinstance(response, StreamingResponse)
    iterator: Any = response.body_iterator
    return iterator


def test_others_do_not_wait_for_it_and_it_ends_with_its_reader(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    monkeypatch.setattr(streaming, "BEAT", 0.01)

    async def run() -> None:
        stream = await started(world)
        assert json.loads(await anext(stream)) == {"t": "total", "bytes": 1}
        # Its thread stands still within a step: the event loop goes on, and the reader hears that it does.
        assert json.loads(await asyncio.wait_for(anext(stream), WAIT)) == {"t": "beat"}
        assert held.inside.is_set()
        assert await world.context.database.aread(lambda tx: tx.now) > 0
        await asyncio.wait_for(stream.aclose(), WAIT)  # pyright: ignore[reportAttributeAccessIssue] - a generator
        assert not held.ended.is_set(), "leaving did not wait for the step"
        held.go_on.set()

    asyncio.run(run())
    assert held.ended.wait(WAIT), "what nobody reads goes on"


def test_a_server_that_ends_cuts_it_short(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    held.go_on.set()

    async def run() -> list[bytes]:
        stream = await started(world)
        first = await anext(stream)
        world.context.bus.publish_for_good("shutdown")
        return [first, *[piece async for piece in stream]]

    told = b"".join(asyncio.run(run()))
    assert b'"end"' not in told
    assert held.ended.wait(WAIT)


def test_one_repair_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    held.go_on.set()

    async def run() -> None:
        [(_, _, handler)] = route.verify_routes(world.context)
        first = await answer(handler, {"repair": True})
        assert json.loads(await anext(first))["t"] == "total"
        [refused] = [json.loads(line) async for line in await answer(handler, {"rebuild": True})]
        assert refused["t"] == "error"
        assert "already" in refused["message"]
        check = b"".join([piece async for piece in await answer(handler, {})])
        assert b'"end"' in check, "checks are not kept waiting"
        await first.aclose()  # pyright: ignore[reportAttributeAccessIssue] - a generator
        held.ended.clear()
        while True:  # the thread of the first one has it until its generator is closed
            told = b"".join([piece async for piece in await answer(handler, {"repair": True})])
            if b'"end"' in told:
                return
            assert b"already" in told
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(run(), WAIT))


@pytest.mark.parametrize("how", ["repair", "rebuild"])
def test_no_repair_while_garbage_is_collected_whichever_server_does(asked: Asked, how: str) -> None:
    with named_leases.held(asked.world.context, named_leases.GC, "collecting"):
        [refused] = frames(asked, **{how: True})
        assert frames(asked)[-1]["t"] == "end", "who only looks need not wait"
    assert refused == {
        "t": "error",
        "message": "collecting garbage or repairing the store is under way already",
        "hint": "wait for its end, then try again",
    }
    assert frames(asked, **{how: True})[-1]["t"] == "end"


def test_a_disk_that_is_full_leaves_the_damaged_pack_where_it_is(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = asked.world
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "x").write_bytes(b"x" * 5000)
    save(tmp_path / "t", store_of(world.context))
    blobs = world.context.blobs
    [info] = blobs.list("packs/")
    data = blobs.get(info.key)
    blobs.delete([info.key])
    blobs.put(info.key, data[:-1] + b"!")

    def full(key: str, data: object) -> bool:
        raise StoreRefused("the disk is full")

    monkeypatch.setattr(blobs, "put", full)
    told = {frame["t"]: frame for frame in frames(asked, repair=True)}
    assert told["left"] == {"t": "left", "pack": info.key[-64:], "why": "the disk is full"}
    assert told["repaired"]["left"] == 1
    assert blobs.stat(info.key) is not None
    assert [item.key for item in blobs.list(heal.ASIDE)] == []
