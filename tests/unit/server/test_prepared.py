"""Prepared statements: on both databases what SQLAlchemy itself would give."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import bindparam, exists, insert, select, update
from sqlalchemy.exc import IntegrityError

from dstack.server.db.engine import Database, Transaction, declare_write
from dstack.server.db.prepared import Prepared
from dstack.server.db.tables import leases, runners
from dstack.server.db.types import Id

PROJECT = UUID(int=1)
COUNT = 501

WRITE = declare_write("test-prepared")

COLUMNS = (
    "project_id", "id", "name", "state", "incarnation", "dstack_version", "capacity", "slots", "drain_asked",
    "machine_id", "registered_at", "heartbeat_at", "lease_until",
)  # fmt: skip
INSERT = Prepared(insert(runners), COLUMNS)
BY_ID = Prepared(
    select(
        runners.c.id, runners.c.name.label("called"), runners.c.capacity, runners.c.drain_asked, runners.c.machine_id
    )
    .where(
        runners.c.project_id == bindparam("project", type_=Id),
        runners.c.id.in_(bindparam("ids", expanding=True)),
        runners.c.slots > bindparam("slots"),
        runners.c.state != "offline",
    )
    .order_by(runners.c.id)
)
UPDATE = Prepared(
    update(runners)
    .where(
        runners.c.project_id == bindparam("k_project"),
        runners.c.id == bindparam("k_id"),
        runners.c.version == bindparam("k_version"),
    )
    .values(
        version=bindparam("k_version") + 1,
        drain_asked=bindparam("v_drain"),
        machine_id=bindparam("v_machine"),
        lost_at=bindparam("v_lost_at"),
    )
)


def row(number: int, **values: Any) -> dict[str, Any]:
    return {
        "project_id": PROJECT, "id": UUID(int=number), "name": f"runner {number}", "state": "online", "slots": 2,
        "incarnation": UUID(int=2**127 + number), "dstack_version": "1", "capacity": bytes([number % 256, 0]),
        "drain_asked": number % 2 == 1, "machine_id": UUID(int=7) if number % 3 == 0 else None,
        "registered_at": 2**52, "heartbeat_at": 0, "lease_until": 0, **values,
    }  # fmt: skip


def change(number: int, version: int = 1, **values: Any) -> dict[str, Any]:
    key = {"k_project": PROJECT, "k_id": UUID(int=number), "k_version": version}
    return {**key, "v_drain": True, "v_machine": None, "v_lost_at": None, **values}


@pytest.fixture
def filled(database: Database) -> Database:
    rows = [row(number) for number in range(COUNT + 3)]
    assert database.write(WRITE, lambda tx: tx.change(INSERT, rows)) == len(rows)
    return database


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, COUNT])
def test_rows_are_those_of_the_plain_statement(filled: Database, count: int) -> None:
    params = {"project": PROJECT, "ids": [UUID(int=number) for number in range(count)], "slots": 1}

    def look(tx: Transaction) -> None:
        found = tx.rows(BY_ID, params)
        assert [tuple(each) for each in found] == [tuple(each) for each in tx.execute(BY_ID.statement, params)]
        assert len(found) == count
        for number, each in enumerate(found):
            assert (each.id, each.called) == (UUID(int=number), f"runner {number}")
            assert each.drain_asked is (number % 2 == 1)
            assert each.machine_id == (UUID(int=7) if number % 3 == 0 else None)
            assert each.capacity == bytes([number % 256, 0])
            assert type(each.capacity) is bytes

    filled.read(look)


def test_every_parameter_counts(filled: Database) -> None:
    ids = [UUID(int=1), UUID(int=2), UUID(int=1), UUID(int=9999)]

    def found(tx: Transaction, **changed: Any) -> list[UUID]:
        return [each.id for each in tx.rows(BY_ID, {"project": PROJECT, "ids": ids, "slots": 1, **changed})]

    assert filled.read(found) == [UUID(int=1), UUID(int=2)]
    assert filled.read(lambda tx: found(tx, slots=2)) == []
    assert filled.read(lambda tx: found(tx, project=UUID(int=2))) == []
    with pytest.raises(Exception, match="slots"):
        filled.read(lambda tx: tx.rows(BY_ID, {"project": PROJECT, "ids": ids}))


def test_columns_without_a_name(filled: Database) -> None:
    """`EXISTS` has none: it is found by position."""
    probe = bindparam("name")
    query = select(exists(select(runners.c.id).where(runners.c.name == probe)), runners.c.id, runners.c.incarnation)
    statement = Prepared(query.where(runners.c.id == bindparam("id")))

    def look(tx: Transaction) -> list[tuple[Any, ...]]:
        return [tuple(*tx.rows(statement, {"name": name, "id": UUID(int=3)})) for name in ("runner 1", "nobody")]

    yes, no = filled.read(look)
    assert yes == (True, UUID(int=3), UUID(int=2**127 + 3))
    assert yes[0] is True
    assert no[0] is False


def test_a_batch_tells_how_many_rows_it_changed(filled: Database) -> None:
    rows = [change(1), change(2, version=8), change(3, v_machine=UUID(int=9), v_lost_at=5), change(9999)]
    assert filled.write(WRITE, lambda tx: tx.change(UPDATE, rows)) == 2
    assert filled.write(WRITE, lambda tx: tx.change(UPDATE, [change(1)])) == 0, "its version went up"
    assert filled.write(WRITE, lambda tx: tx.change(UPDATE, [change(1, version=2)])) == 1
    query = select(runners.c.version, runners.c.drain_asked, runners.c.machine_id, runners.c.lost_at)
    query = query.where(runners.c.id.in_([UUID(int=number) for number in (1, 2, 3)])).order_by(runners.c.id)
    assert filled.read(lambda tx: [tuple(each) for each in tx.execute(query)]) == [
        (3, True, None, None),
        (1, False, None, None),
        (2, True, UUID(int=9), 5),
    ]


def test_it_is_part_of_the_transaction(filled: Database) -> None:
    def fail(tx: Transaction) -> None:
        tx.execute(insert(leases), {"project_id": PROJECT, "name": "mine", "owner": "me", "until": 0})
        tx.change(UPDATE, [change(1)])
        tx.change(INSERT, [row(COUNT + 10), row(1)])

    with pytest.raises(IntegrityError):
        filled.write(WRITE, fail)
    assert filled.write(WRITE, lambda tx: tx.change(UPDATE, [change(1)])) == 1
    ids = [UUID(int=COUNT + 10)]
    assert filled.read(lambda tx: tx.rows(BY_ID, {"project": PROJECT, "ids": ids, "slots": 0})) == []
    assert filled.read(lambda tx: tx.execute(select(leases.c.name)).all()) == []


def test_a_read_cannot_change(filled: Database) -> None:
    with pytest.raises(Exception, match=r"read-?only"):
        filled.read(lambda tx: tx.change(UPDATE, [change(1)]))
