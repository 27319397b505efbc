"""Wake-ups inside the server: who waits for a topic hears that something about it was committed.

A topic is a plain string such as `run:<id>`. A wake-up carries no data: who is woken looks in the database, and also
looks on a tick, so that a lost one costs delay and nothing else.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Self


class Bus:
    """`publish` from any thread, `subscribe` on an event loop. A topic costs nothing while nobody waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, set[Subscription]] = {}
        self._for_good: set[str] = set()

    def publish(self, topic: str) -> None:
        """Wake everyone who subscribed to `topic`."""
        self.publish_many((topic,))

    def publish_many(self, topics: Iterable[str]) -> None:
        """Wake everyone who subscribed to one of `topics`, each once."""
        with self._lock:
            for topic in topics:
                for subscription in self._waiting.get(topic, ()):
                    subscription.deliver(topic)

    def publish_for_good(self, topic: str) -> None:
        """Wake everyone who subscribed to `topic`, and everyone who ever will, at once."""
        with self._lock:
            self._for_good.add(topic)
        self.publish(topic)

    def subscribe(self, topics: Iterable[str]) -> Subscription:
        """Hear about `topics` from now on, until the subscription is closed. Call on the event loop that waits."""
        subscription = Subscription(self, asyncio.get_running_loop(), frozenset(topics))
        with self._lock:
            for topic in subscription.topics:
                self._waiting.setdefault(topic, set()).add(subscription)
                if topic in self._for_good:
                    subscription.deliver(topic)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """What `Subscription.close` does."""
        with self._lock:
            for topic in subscription.topics:
                subscriptions = self._waiting.get(topic)
                if subscriptions is not None:
                    subscriptions.discard(subscription)
                    if not subscriptions:
                        del self._waiting[topic]


class Subscription:
    """One waiter. A publish between two waits is kept, and any number of them wake once."""

    def __init__(self, bus: Bus, loop: asyncio.AbstractEventLoop, topics: frozenset[str]) -> None:
        self.topics = topics
        self._bus = bus
        self._loop = loop
        self._lock = threading.Lock()
        self._fired: set[str] = set()
        self._waiter: asyncio.Future[None] | None = None
        self._waking = False

    async def wait(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 -- a wait that ends by itself is no error
        """True as soon as something was published since the last wait, False after `timeout` seconds."""
        return bool(await self.wait_topics(timeout))

    async def wait_topics(self, timeout: float | None = None) -> set[str]:  # noqa: ASYNC109 -- as above
        """`wait`, telling which topics it was; empty after `timeout` seconds."""
        if not self._fired and (timeout is None or timeout > 0):
            await self._sleep(timeout)
        with self._lock:
            fired, self._fired = self._fired, set()
        return fired

    def deliver(self, topic: str) -> None:
        """Called by the bus, on any thread."""
        with self._lock:
            self._fired.add(topic)
            if self._waiter is None or self._waking:
                return
            self._waking = True
            waiter = self._waiter
        with suppress(RuntimeError):  # the loop closed under the subscriber: nobody is left to wake
            self._loop.call_soon_threadsafe(_wake, waiter)

    def close(self) -> None:
        """Hear nothing more."""
        self._bus.unsubscribe(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _sleep(self, timeout: float | None) -> None:  # noqa: ASYNC109 -- as above
        waiter = self._loop.create_future()
        with self._lock:
            if self._fired:
                return
            if self._waiter is not None:
                raise RuntimeError("two waits on one subscription at once: give each its own")
            self._waiter = waiter
            self._waking = False
        timer = None if timeout is None else self._loop.call_later(timeout, _wake, waiter)
        try:
            await waiter
        finally:
            if timer is not None:
                timer.cancel()
            with self._lock:
                self._waiter = None


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
