"""The route that checks the store, and heals it: frames for as long as it takes, see `api/streaming.py`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from dstack.server.api.requests import read_body
from dstack.server.api.streaming import stream
from dstack.server.services.context import Context
from dstack.server.services.errors import BadRequest
from dstack.server.services.heal import Healer
from dstack.server.services.ledger import Frame, Scope
from dstack.server.services.named_leases import GC, UPKEEP, Lease, held
from dstack.server.services.repositories import RepositoryRef
from dstack.server.services.verify import Check, scope_of
from dstack.snapshots.spread import Spread

Handler = Callable[[Request], Awaitable[Response]]


class VerifyBody(msgspec.Struct, frozen=True):
    run: str | None = None
    tag: str | None = None
    repository: RepositoryRef | None = None
    quick: bool = False
    repair: bool = False
    rebuild: bool = False


def verify_routes(context: Context) -> list[tuple[str, str, Handler]]:
    async def verify(request: Request) -> Response:
        body = await read_body(request, VerifyBody)
        if body.rebuild and (body.run or body.tag or body.quick or body.repair):
            raise BadRequest("the index is made again for the whole store, and by itself")
        scope = await context.database.aread(lambda tx: scope_of(tx, context, body.run, body.tag, body.repository))
        frames = _heal_alone(context, scope, body) if _heals(body) else _check(context, scope, body, None)
        return stream(context, frames)

    return [("POST", "/store/verify", verify)]


def _heals(body: VerifyBody) -> bool:
    return body.repair or body.rebuild


def _heal_alone(context: Context, scope: Scope, body: VerifyBody) -> Iterator[Frame]:
    with held(context, GC, UPKEEP) as lease:
        frames = _rebuild(context, lease) if body.rebuild else _check(context, scope, body, lease)
        for frame in frames:
            lease.keep()
            yield frame


def _rebuild(context: Context, lease: Lease) -> Iterator[Frame]:
    with Spread() as spread:
        yield from Healer(context, spread, lease).rebuild()
        yield {"t": "end"}


def _check(context: Context, scope: Scope, body: VerifyBody, lease: Lease | None) -> Iterator[Frame]:
    """With a lease, what is found is repaired."""
    with Spread() as spread:
        check = Check(context, scope, spread, quick=body.quick)
        yield from check.frames()
        if lease is not None and check.damages:
            yield from Healer(context, spread, lease).repair()
            yield from check.touched()  # what was saved meanwhile and names what had to go
        yield {"t": "end", **check.summary()}
