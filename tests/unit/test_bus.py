"""The bus: level-triggered, coalescing, from any thread."""

from __future__ import annotations

import asyncio
import threading

import pytest

from dstack.server.bus import Bus, Subscription


def test_a_publish_between_waits_is_kept(bus: Bus) -> None:
    async def main() -> None:
        with bus.subscribe(["run:1", "queue"]) as subscription:
            bus.publish("run:1")
            bus.publish("run:1")
            bus.publish("run:2")
            assert await subscription.wait(timeout=0) is True
            assert await subscription.wait(timeout=0) is False, "two publishes wake once"
            bus.publish_many({"queue", "run:1", "run:3"})
            assert await subscription.wait_topics() == {"queue", "run:1"}

    asyncio.run(main())


def test_a_publish_on_another_thread_wakes_a_waiter(bus: Bus) -> None:
    async def main() -> None:
        with bus.subscribe(["queue"]) as subscription:
            waiting = asyncio.ensure_future(subscription.wait())
            await asyncio.sleep(0)
            publisher = threading.Thread(target=bus.publish, args=("queue",))
            publisher.start()
            assert await waiting is True
            publisher.join()

    asyncio.run(main())


def test_a_wait_ends_by_itself(bus: Bus) -> None:
    async def main() -> None:
        with bus.subscribe(["queue"]) as subscription:
            assert await subscription.wait(timeout=0.001) is False
            waiting = asyncio.ensure_future(subscription.wait())
            await asyncio.sleep(0)
            bus.publish("queue")
            assert await waiting is True, "a wait that timed out leaves the next one alone"

    asyncio.run(main())


def test_a_cancelled_wait_loses_nothing(bus: Bus) -> None:
    async def main() -> None:
        with bus.subscribe(["queue"]) as subscription:
            waiting = asyncio.ensure_future(subscription.wait())
            await asyncio.sleep(0)
            bus.publish("queue")
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await subscription.wait(timeout=0) is True

    asyncio.run(main())


def test_each_subscriber_hears(bus: Bus) -> None:
    async def main() -> None:
        subscriptions = [bus.subscribe(["queue", f"run:{number}"]) for number in range(3)]
        bus.publish("queue")
        assert [await each.wait(timeout=0) for each in subscriptions] == [True] * 3
        bus.publish("run:1")
        assert [await each.wait(timeout=0) for each in subscriptions] == [False, True, False]
        for each in subscriptions:
            each.close()
        bus.publish("queue")
        assert [await each.wait(timeout=0) for each in subscriptions] == [False] * 3

    asyncio.run(main())


def test_two_waits_at_once_are_refused(bus: Bus) -> None:
    async def main() -> None:
        with bus.subscribe(["queue"]) as subscription:
            waiting = asyncio.ensure_future(subscription.wait())
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="two waits on one subscription"):
                await subscription.wait()
            bus.publish("queue")
            assert await waiting is True

    asyncio.run(main())


def test_a_waiter_whose_loop_is_closed_harms_nobody(bus: Bus) -> None:
    loop = asyncio.new_event_loop()

    async def subscribe() -> tuple[Subscription, Subscription]:
        return bus.subscribe(["queue"]), bus.subscribe(["queue"])

    gone, _ = loop.run_until_complete(subscribe())
    waiting = gone.wait()
    waiting.send(None)  # as far as its future, on a loop that then ends
    loop.close()
    bus.publish("queue")

    async def later() -> None:
        with bus.subscribe(["queue"]) as subscription:
            bus.publish("queue")
            assert await subscription.wait(timeout=0) is True

    asyncio.run(later())
    waiting.close()


def test_no_publish_is_lost_under_load(bus: Bus) -> None:
    """A publisher that never waits, and a waiter that counts what it was told to look at."""
    published = 0

    def publisher() -> None:
        nonlocal published
        for _ in range(2_000):
            published += 1
            bus.publish("queue")

    async def main() -> None:
        with bus.subscribe(["queue"]) as subscription:
            thread = threading.Thread(target=publisher)
            thread.start()
            seen = 0
            while seen < 2_000:
                assert await subscription.wait(timeout=30), "the last publish must wake the waiter"
                seen = published
            thread.join()

    asyncio.run(main())


def test_what_is_published_for_good_wakes_later_subscribers_too(bus: Bus) -> None:
    async def main() -> None:
        bus.publish_for_good("shutdown")
        with bus.subscribe(["shutdown", "other"]) as subscription:
            assert await subscription.wait_topics(0) == {"shutdown"}

    asyncio.run(main())
