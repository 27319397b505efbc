"""The store's calls of a stub server: packs lie where signed requests lead, the catalog is a dict."""

from __future__ import annotations

import time

import msgspec

from dstack.snapshots.catalog import MemoryCatalog
from dstack.snapshots.interfaces import PackIndex
from tests.support.stub_api import Call, Reply, StubApi


def serve(stub: StubApi, url: str, *, ttl: int = 3600) -> MemoryCatalog:
    """The store's calls; signed requests go to `url`, in which KEY stands for the key."""
    catalog = MemoryCatalog()

    def sign(call: Call) -> Reply:
        asked = msgspec.msgpack.decode(call.body)
        expires = time.time_ns() // 1000 + ttl * 10**6
        signed = [
            {
                "method": asked["method"],
                "url": url.replace("KEY", key),
                "headers": [["x-signed", "yes"]],
                "expires": expires,
            }
            for key in asked["keys"]
        ]
        return Reply(body=msgspec.msgpack.encode(signed))

    def missing(call: Call) -> Reply:
        return Reply(body=msgspec.msgpack.encode(list(catalog.missing(msgspec.msgpack.decode(call.body)))))

    def locate(call: Call) -> Reply:
        return Reply(body=msgspec.msgpack.encode(dict(catalog.locate(msgspec.msgpack.decode(call.body)))))

    def add(call: Call) -> Reply:
        packs = msgspec.msgpack.decode(call.body, type=list[PackIndex])
        catalog.add(packs)
        return Reply(body=msgspec.msgpack.encode(len(packs)))

    def sync(call: Call) -> Reply:
        return Reply(body=msgspec.msgpack.encode(True))

    routes = {"sign": sign, "missing": missing, "locate": locate, "add": add, "sync": sync}
    for name, route in routes.items():
        stub.on(f"POST …/store/{name}", route)
    return catalog
