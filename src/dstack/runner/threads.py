"""Work in threads that is over once nobody waits for it any more: a thread cannot be interrupted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def whole(work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
    """`asyncio.to_thread`, but cancelled meanwhile it ends when `work` has ended.

    What comes next may remove the folder that `work` writes to, or give its lock away.
    """
    return await stoppable(lambda _: work(*args, **named))


async def stoppable(work: Callable[[Callable[[], bool]], T]) -> T:
    """The same for work that asks now and then whether it should stop, which it is told when this is cancelled."""
    stopping = threading.Event()
    running = asyncio.ensure_future(asyncio.to_thread(work, stopping.is_set))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stopping.set()
        await asyncio.gather(running, return_exceptions=True)
        raise
