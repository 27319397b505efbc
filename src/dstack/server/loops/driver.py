"""What drives the loops: wake on a topic or a tick, do the work off the event loop, survive its errors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from dstack.server.bus import Bus
from dstack.server.db.errors import DatabaseError
from dstack.snapshots.errors import SnapshotError

_log = logging.getLogger(__name__)
RETRY = 1.0
"""Seconds before a loop whose work failed tries again."""


async def drive(
    name: str, bus: Bus, topics: list[str], tick: Callable[[], float], work: Callable[[], object], apart: float = 0.0
) -> None:
    """Run `work` in a thread at once, then whenever one of `topics` is published and every `tick()` seconds.

    Rounds begin at least `apart` seconds from each other: what happens meanwhile is done in one. Cancelled within a
    round, it ends with that: nothing is at work any more when it is over.
    """
    loop = asyncio.get_running_loop()
    with bus.subscribe(topics) as subscription:
        while True:
            wait = RETRY
            begun = loop.time()
            try:
                await _whole(work)
                wait = tick()
            except (DatabaseError, SnapshotError) as error:
                _log.warning("loop %s: %s", name, error)
            except Exception:  # noqa: BLE001 - see below
                # A bug in one round must not end the loop: without it no job would be placed any more.
                _log.exception("loop %s failed", name)
            if await subscription.wait(wait):
                await asyncio.sleep(max(0.0, begun + apart - loop.time()))


async def _whole(work: Callable[[], object]) -> None:
    """Run `work` in a thread to its end, also when cancelled meanwhile: a thread cannot be interrupted."""
    working = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(working)
    except asyncio.CancelledError:
        (ended,) = await asyncio.gather(working, return_exceptions=True)
        if isinstance(ended, Exception):
            _log.warning("the last round of a loop failed: %s", ended)
        raise
