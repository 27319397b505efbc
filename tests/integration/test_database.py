"""`Database` on SQLite and on PostgreSQL: what both promise."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from sqlalchemy import bindparam, func, select, text, update
from sqlalchemy.exc import IntegrityError

from dstack.server.bus import Bus
from dstack.server.db.engine import Database, Transaction, declare_write
from dstack.server.db.errors import DatabaseUnavailable
from dstack.server.db.tables import leases, meta
from tests.support.ports import FakeBackoff, FakeClock, FakeIds

PROJECT = UUID(int=1)

PUT = declare_write("test-put")
CHANGE = declare_write("test-change")

# `leases` serves as the table under test: an owner to change, and a number that guards the change as a version does.
_change = (
    update(leases)
    .where(leases.c.project_id == PROJECT, leases.c.name == bindparam("row"), leases.c.until == bindparam("version"))
    .values(until=leases.c.until + 1, owner=bindparam("by"))
)


def put(database: Database, *names: str) -> None:
    rows = [{"project_id": PROJECT, "name": name, "owner": "", "until": 0} for name in names]
    database.write(PUT, lambda tx: tx.execute(leases.insert(), rows))


def owners(database: Database) -> dict[str, str]:
    query = select(leases.c.name, leases.c.owner)
    return database.read(lambda tx: {row.name: row.owner for row in tx.execute(query)})


def test_ids_come_back_as_uuids_and_sort_as_such(database: Database, ids: FakeIds, clock: FakeClock) -> None:
    made = [ids.new(clock.now()) for _ in range(3)] + [UUID(int=2**128 - 1), UUID(int=0)]
    rows = [{"project_id": each, "key": "k", "value": "v"} for each in made]

    def check(tx: Transaction) -> None:
        tx.execute(meta.insert(), rows)
        found = tx.execute(select(meta.c.project_id).where(meta.c.key == "k").order_by(meta.c.project_id)).scalars()
        assert found.all() == sorted(made)
        one = tx.execute(select(meta.c.value).where(meta.c.key == "k", meta.c.project_id == made[1])).scalar_one()
        assert one == "v"

    database.write(PUT, check)


def test_what_fails_is_rolled_back(database: Database) -> None:
    put(database, "first")

    def fail(tx: Transaction) -> None:
        tx.execute(leases.insert(), {"project_id": PROJECT, "name": "second", "owner": "", "until": 0})
        tx.notify("never")
        raise LookupError("changed my mind")

    with pytest.raises(LookupError, match="changed my mind"):
        database.write(PUT, fail)
    with pytest.raises(IntegrityError):
        put(database, "third", "first")
    put(database, "fourth")
    assert set(owners(database)) == {"first", "fourth"}


def test_a_read_cannot_write(database: Database) -> None:
    put(database, "row")
    with pytest.raises(Exception, match=r"read-?only"):
        database.read(lambda tx: tx.execute(leases.delete()))
    with pytest.raises(RuntimeError, match="a read cannot notify"):
        database.read(lambda tx: tx.notify("topic"))
    assert set(owners(database)) == {"row"}


def test_a_read_sees_one_state(database: Database) -> None:
    put(database, "before")

    def look_twice(tx: Transaction) -> tuple[int, int]:
        count = select(func.count()).select_from(leases)
        first = tx.execute(count).scalar_one()
        with ThreadPoolExecutor(1) as other:
            other.submit(put, database, "meanwhile").result()
        return first, tx.execute(count).scalar_one()

    assert database.read(look_twice) == (1, 1)
    assert set(owners(database)) == {"before", "meanwhile"}


def test_now_is_read_once(database: Database, clock: FakeClock) -> None:
    def look(tx: Transaction) -> tuple[int, int]:
        first = tx.now
        clock.advance(10)
        tx.execute(text("SELECT 1"))
        return first, tx.now

    start = clock.now()
    first, second = database.write(PUT, look)
    assert first == second
    if database.dialect == "sqlite":
        assert first == start
    later = database.read(look)[0]
    assert later > first


def test_now_is_the_servers_on_postgresql(postgresql_url: str, clock: FakeClock) -> None:
    """Two replicas whose own clocks differ by an hour still agree (F16)."""
    skewed = FakeClock(clock.now() + 3_600_000_000)
    nows: list[int] = []
    for each in (clock, skewed, clock):
        database = Database.open(postgresql_url, clock=each, on_commit=lambda _: None)
        nows.append(database.write(PUT, lambda tx: tx.now))
        database.close()
    assert nows == sorted(nows)
    assert nows[-1] - nows[0] < 60_000_000


def test_insert_new_leaves_the_transaction_usable(database: Database) -> None:
    put(database, "taken")

    def name(tx: Transaction) -> str:
        for candidate in ("taken", "free"):
            if tx.insert_new(leases, {"project_id": PROJECT, "name": candidate, "owner": "me", "until": 0}):
                return candidate
        raise AssertionError("no name was free")

    assert database.write(PUT, name) == "free"
    assert owners(database) == {"taken": "", "free": "me"}


def test_many_threads_lose_no_update(database: Database) -> None:
    """Each of 8 threads changes one row 25 times, on its newest version: every change counts exactly once."""
    put(database, "row")
    start = threading.Barrier(8)

    def worker(number: int) -> int:
        start.wait()
        stale = 0
        version = select(leases.c.until).where(leases.c.name == "row")
        for _ in range(25):
            while True:
                seen = database.read(lambda tx: tx.execute(version).scalar_one())
                row = {"row": "row", "version": seen, "by": str(number)}
                if database.write(CHANGE, lambda tx, row=row: tx.execute(_change, row).rowcount):
                    break
                stale += 1
        return stale

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(worker, range(8)))
    assert database.read(lambda tx: tx.execute(select(leases.c.until)).scalar_one()) == 200


def test_writes_off_the_loop(database: Database) -> None:
    put(database, "row")

    async def main() -> None:
        async def change() -> int:
            def work(tx: Transaction) -> int:
                seen = tx.execute(select(leases.c.until).with_for_update()).scalar_one()
                return tx.execute(_change, {"row": "row", "version": seen, "by": "x"}).rowcount

            return await asyncio.to_thread(database.write, CHANGE, work)

        assert await asyncio.gather(*(change() for _ in range(40))) == [1] * 40
        assert await database.aread(lambda tx: tx.execute(select(leases.c.until)).scalar_one()) == 40

    asyncio.run(main())


def test_topics_are_published_after_the_commit_only(database_url: str, clock: FakeClock, backoff: FakeBackoff) -> None:
    seen: list[tuple[set[str], int]] = []
    count = select(func.count()).select_from(leases)

    def heard(topics: set[str]) -> None:
        seen.append((topics, database.read(lambda tx: tx.execute(count).scalar_one())))
        raise OSError("a listener's own trouble")

    database = Database.open(database_url, clock=clock, on_commit=heard, backoff=backoff)

    def work(tx: Transaction) -> str:
        tx.execute(leases.insert(), {"project_id": PROJECT, "name": "row", "owner": "", "until": 0})
        tx.notify("run:1")
        tx.notify("queue")
        tx.notify("run:1")
        assert seen == []
        return "stored"

    assert database.write(PUT, work) == "stored", "what is committed is told as such, whatever a listener does"
    assert seen == [({"run:1", "queue"}, 1)]
    database.close()


def test_names_must_be_declared(database: Database) -> None:
    with pytest.raises(KeyError, match="'undeclared' is not declared"):
        database.write("undeclared", lambda tx: None)


def test_closed_is_closed(database: Database, bus: Bus) -> None:
    database.close()
    database.close()
    with pytest.raises(DatabaseUnavailable, match="is closed: this server is stopping"):
        put(database, "late")
    with pytest.raises(DatabaseUnavailable):
        owners(database)

    async def main() -> None:
        with pytest.raises(DatabaseUnavailable):
            await database.aread(lambda tx: None)

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["read", "write"])
def test_closing_waits_for_what_other_threads_do(database: Database, kind: str) -> None:
    put(database, "row")
    inside, go_on = threading.Event(), threading.Event()
    owner = select(leases.c.owner)

    def work(tx: Transaction) -> str:
        inside.set()
        assert go_on.wait(30)
        return tx.execute(owner).scalar_one()

    with ThreadPoolExecutor(2) as pool:
        busy = pool.submit(database.read, work) if kind == "read" else pool.submit(database.write, PUT, work)
        assert inside.wait(30)
        closing = pool.submit(database.close)
        while True:
            try:
                owners(database)
            except DatabaseUnavailable:
                break
        assert not closing.done(), "somebody still works on it"
        go_on.set()
        assert busy.result() == ""
        closing.result()
