"""The server put together: database, store, loops and routes, listening on a socket until it is asked to end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any
from uuid import UUID

import uvicorn
from sqlalchemy import insert, select
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from dstack.domain.ports import Clock, Ids, SystemClock, SystemIds
from dstack.embedded import EmbeddedError
from dstack.embedded.store_place import is_marked, open_store, read_mark
from dstack.logs.files import FileLogStore
from dstack.server.api.routes import routes as api_routes
from dstack.server.bus import Bus
from dstack.server.db.engine import Database, Transaction, declare_write
from dstack.server.db.tables import SYSTEM, meta, packs, projects
from dstack.server.db.upgrade import ensure_schema
from dstack.server.door import Door
from dstack.server.loops.clock_watch import ClockWatch, extend_leases
from dstack.server.loops.driver import drive
from dstack.server.loops.local_runner import LocalRunner
from dstack.server.loops.sweep import next_deadline, sweep
from dstack.server.loops.upkeep import Upkeep
from dstack.server.rpc.routes import routes as rpc_routes
from dstack.server.services.context import Context
from dstack.server.services.idle import Activity, has_open_runs
from dstack.server.services.place import place
from dstack.server.services.sealing import Sealer
from dstack.server.services.unsatisfiable import fail_unsatisfiable
from dstack.server.settings import Settings
from dstack.snapshots.blobs.local import LocalBlobStore

_log = logging.getLogger(__name__)
BEGIN = declare_write("server.begin")
PLACE_APART = 0.005
"""Seconds between two rounds of the placer: under load it places several jobs at once, and nobody waits for more."""
GRACE = 5
"""Seconds that requests under way have when the server ends."""


def build_context(settings: Settings, clock: Clock | None = None, ids: Ids | None = None) -> Context:
    """Open the database (bringing its schema up to date) and the stores. Raises DatabaseError, StoreAway, OSError."""
    settings.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    clock = clock or SystemClock()
    ids = ids or SystemIds()
    ensure_schema(settings.url)
    bus = Bus()
    database = Database.open(settings.url, clock=clock, on_commit=bus.publish_many)
    try:
        store = open_store(settings.home, lambda: database.read(_has_packs))
    except BaseException:
        database.close()
        raise
    mark = read_mark(store)
    project_id, deployment_id, epoch = database.write(BEGIN, lambda tx: _begin(tx, settings, ids))
    return Context(
        settings=settings,
        database=database,
        bus=bus,
        blobs=LocalBlobStore(store, lambda: is_marked(store, mark)),
        logs=FileLogStore(settings.logs),
        sealer=Sealer(settings.secrets_file, settings.secrets_key),
        clock=clock,
        ids=ids,
        project_id=project_id,
        deployment_id=deployment_id,
        epoch=epoch,
        started_at=clock.now(),
    )


def _has_packs(tx: Transaction) -> bool:
    return tx.execute(select(packs.c.pack_id).limit(1)).first() is not None


def _begin(tx: Transaction, settings: Settings, ids: Ids) -> tuple[UUID, UUID, int]:
    """The project's and the deployment's id, made the first time."""
    found = {
        row.key: row.value for row in tx.execute(select(meta.c.key, meta.c.value).where(meta.c.project_id == SYSTEM))
    }
    deployment = found.get("deployment")
    if deployment is None:
        deployment = ids.new(tx.now).hex
        rows = [{"key": "deployment", "value": deployment}, {"key": "epoch", "value": "1"}]
        tx.execute(insert(meta), [{"project_id": SYSTEM, **row} for row in rows])
    project_id = tx.execute(select(projects.c.project_id).where(projects.c.name == settings.project)).scalar()
    if project_id is None:
        project_id = ids.new(tx.now)
        tx.execute(insert(projects), {"project_id": project_id, "name": settings.project, "created_at": tx.now})
    return project_id, UUID(hex=deployment), int(found.get("epoch", "1"))


class Server:
    """One server process: `run` returns when it was asked to end, or when nobody needs it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._activity = Activity(context.clock)
        self._asked = False
        """Whether somebody told it to end, whatever runs."""
        app = Starlette(
            routes=[*api_routes(context, self.shutdown), *rpc_routes(context)],
        )
        self._config = uvicorn.Config(
            _counted(app, self._activity),
            http="httptools",
            loop="asyncio",
            lifespan="off",
            ws="none",
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=GRACE,
            timeout_keep_alive=75,
        )
        self._uvicorn = uvicorn.Server(self._config)

    def shutdown(self) -> None:
        """End soon: long polls return, streams close, requests under way finish."""
        self._asked = True
        self._close()

    async def run(self, door: Door, ready: Callable[[], None]) -> None:
        """Serve whoever comes through `door`; `ready` is called once requests are answered."""
        # The event loop would wait for a busy thread for 5 ms at each hand-over of the interpreter.
        sys.setswitchinterval(0.0005)
        listener = door.open()
        await asyncio.to_thread(extend_leases, self._context)
        for number in (signal.SIGTERM, signal.SIGINT):
            # Besides uvicorn's own handlers: long polls have to return, and the process ends in order.
            asyncio.get_running_loop().add_signal_handler(number, self.shutdown)
        tasks = [asyncio.create_task(loop) for loop in (*self._loops(), self._keep_open(door))]
        serving = asyncio.create_task(self._serve(listener))
        ready()
        try:
            await serving
            while not self._asked and await asyncio.to_thread(_has_open_runs, self._context):
                # Submitted after the last look and before the door was shut: nobody else would run it.
                _log.info("a run came in while this server was ending: it goes on")
                self._activity.touch()
                self._uvicorn = uvicorn.Server(self._config)
                await self._serve(door.open())
        finally:
            self._context.bus.publish_for_good("shutdown")
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task
            self._context.database.close()
            self._context.logs.close()

    async def _serve(self, listener: socket.socket) -> None:
        """Answer requests until told to end, or, where that is wanted, until nobody needs this server."""
        idle = self._context.settings.idle_exit
        watching = asyncio.create_task(self._watch_idle(idle)) if idle > 0 else None
        try:
            await self._uvicorn.serve(sockets=[listener])
        finally:
            if watching is not None:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)

    async def _keep_open(self, door: Door) -> None:
        """Look on every tick whether people can still come in, and open the door again where they cannot."""
        problem = ""
        while True:
            await asyncio.sleep(self._context.settings.tick)
            if door.is_lost():
                _log.error("the home of this server was removed: it ends")
                self.shutdown()
                return
            if not door.is_gone() or not self._uvicorn.started or self._uvicorn.should_exit:
                continue
            try:
                await self._listen_also(door.open())
            except (OSError, EmbeddedError) as error:
                if str(error) != problem:
                    _log.warning("the socket is gone, and another cannot be made yet: %s", error)
                problem = str(error)
            else:
                _log.warning("the socket was removed by somebody: this server listens on a new one")
                problem = ""

    async def _listen_also(self, listener: socket.socket) -> None:
        """Have uvicorn serve a second listener, as it does those it is started with."""
        serving = self._uvicorn

        def protocol() -> asyncio.Protocol:
            made: Any = self._config.http_protocol_class
            return made(config=self._config, server_state=serving.server_state, app_state=serving.lifespan.state)

        serving.servers.append(await asyncio.get_running_loop().create_server(protocol, sock=listener))

    def _close(self) -> None:
        self._uvicorn.should_exit = True
        self._context.bus.publish_for_good("shutdown")

    def _loops(self) -> list[Coroutine[Any, Any, None]]:
        context, settings = self._context, self._context.settings
        watch = ClockWatch(context)

        def sweep_all() -> None:
            watch.look()
            sweep(context)

        found: list[Coroutine[Any, Any, None]] = [
            drive("place", context.bus, ["place"], lambda: settings.tick, lambda: place(context), PLACE_APART),
            drive(
                "unsatisfiable",
                context.bus,
                ["unfit", "runners"],
                lambda: settings.tick,
                lambda: fail_unsatisfiable(context),
            ),
            drive("sweep", context.bus, ["runners", "deadlines"], lambda: next_deadline(context), sweep_all),
        ]
        upkeep = Upkeep(context)
        found.append(drive("upkeep", context.bus, [], upkeep.wait, upkeep.look))
        if settings.local_runner:
            runner = LocalRunner(settings, context.clock)
            found.append(drive("local runner", context.bus, ["runners"], lambda: settings.tick, runner.ensure))
        return found

    async def _watch_idle(self, wait: float) -> None:
        """Close after `wait` seconds without a request of a person and with nothing running."""
        while True:
            await asyncio.sleep(max(0.05, wait - self._activity.idle_for()))
            if self._activity.idle_for() < wait:
                continue
            if await asyncio.to_thread(_has_open_runs, self._context):
                self._activity.touch()
                continue
            _log.info("nothing to do for %g s: ending", wait)
            self._close()
            return


def _has_open_runs(context: Context) -> bool:
    return context.database.read(lambda tx: has_open_runs(tx, context.project_id))


def _counted(app: ASGIApp, activity: Activity) -> ASGIApp:
    """`app`, with requests of people counted as activity; a runner's polls are not."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/rpc/"):
            await app(scope, receive, send)
            return
        with activity.request():
            await app(scope, receive, send)

    return wrapped
