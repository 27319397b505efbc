"""The relay: what one replica commits wakes those who wait on another."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import text

from dstack.server.bus import Bus, Subscription
from dstack.server.db.engine import Database, Transaction, declare_write
from dstack.server.db.relay import Relay, payloads
from tests.support.ports import FakeClock

TELL = declare_write("test-tell")

PATIENCE = 20.0
"""Seconds after which a wake-up that should come has failed to; it takes milliseconds."""


async def hear_all(subscription: Subscription) -> None:
    """Wait until every topic of `subscription` was heard, in however many wake-ups."""
    heard: set[str] = set()
    while heard != subscription.topics:
        fresh = await subscription.wait_topics(PATIENCE)
        assert fresh, f"only {len(heard)} topics came through"
        heard |= fresh


@pytest.fixture
def relays(postgresql_url: str) -> Iterator[tuple[Relay, Bus, Relay, Bus]]:
    buses = Bus(), Bus()
    made = [Relay(postgresql_url, bus) for bus in buses]
    for relay in made:
        relay.start()
        assert relay.wait_listening(PATIENCE)
    yield made[0], buses[0], made[1], buses[1]
    for relay in made:
        relay.close()


def test_a_commit_here_wakes_a_waiter_there(
    relays: tuple[Relay, Bus, Relay, Bus], postgresql_url: str, clock: FakeClock
) -> None:
    relay, here, _, there = relays
    database = Database.open(postgresql_url, clock=clock, on_commit=relay.publish_many)
    topics = [f"run:{number}" for number in range(1_000)]  # more than one message holds

    def work(tx: Transaction) -> None:
        tx.execute(text("SELECT 1"))
        for topic in topics:
            tx.notify(topic)

    async def main() -> None:
        with here.subscribe(topics) as mine, there.subscribe(topics) as theirs:
            await asyncio.to_thread(database.write, TELL, work)
            assert await mine.wait_topics(timeout=0) == set(topics), "this replica hears at once"
            await hear_all(theirs)

    asyncio.run(main())
    database.close()


def test_a_broken_connection_is_made_again_and_wakes_everybody(
    relays: tuple[Relay, Bus, Relay, Bus], postgresql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    relay, here, _, there = relays
    caplog.set_level(logging.CRITICAL, logger="dstack.server.db.relay")

    async def main() -> None:
        with here.subscribe(["one"]) as mine, there.subscribe(["one", "two"]) as theirs:
            with psycopg.connect(postgresql_url, autocommit=True) as admin:
                admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            assert await mine.wait(PATIENCE), "after a reconnect everybody looks"
            await hear_all(theirs)
            relay.publish_many(["two"])
            assert await theirs.wait_topics(PATIENCE) == {"two"}

    asyncio.run(main())


def test_messages_stay_below_postgresqls_limit() -> None:
    topics = {f"run:{number:032x}" for number in range(500)}
    messages = list(payloads(topics))
    assert max(len(message.encode()) for message in messages) < 8_000
    assert len(messages) == 3
    assert {topic for message in messages for topic in message.split("\n")} == topics
    assert list(payloads(set())) == []
