"""Named leases: one at a time, and nobody is held up by one who was killed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import update

from dstack.domain.ports import SECOND
from dstack.server.app import build_context
from dstack.server.db.engine import declare_write
from dstack.server.db.tables import leases
from dstack.server.services.errors import Conflict
from dstack.server.services.named_leases import GC, LASTS, LeaseLost, held
from tests.support.world import World

WORK = declare_write("test-leased-work")


def test_one_at_a_time(world: World) -> None:
    with held(world.context, GC, "collecting"):
        with pytest.raises(Conflict, match="collecting is under way already"), held(world.context, GC, "collecting"):
            pass
        with held(world.context, "other", "something else"):
            pass
    with held(world.context, GC, "collecting"):
        pass
    assert world.rows(leases) == []


def test_it_is_given_back_when_the_work_fails(world: World) -> None:
    with pytest.raises(ZeroDivisionError), held(world.context, GC, "collecting"):
        raise ZeroDivisionError
    assert world.rows(leases) == []


def test_one_that_ran_out_goes_to_the_next_and_the_first_writes_no_more(world: World) -> None:
    with held(world.context, GC, "collecting") as first:
        world.clock.advance(LASTS / SECOND)
        with held(world.context, GC, "collecting") as second:
            with pytest.raises(LeaseLost, match="collecting was interrupted for too long"):
                world.context.database.write(WORK, first.write)
            world.context.database.write(WORK, second.write)


@pytest.mark.parametrize("kind", ["writes", "keeps"])
def test_who_gives_signs_of_life_keeps_it(world: World, kind: str) -> None:
    with held(world.context, GC, "collecting") as lease:
        for _ in range(4):
            world.clock.advance(LASTS / SECOND * 0.6)
            if kind == "writes":
                world.context.database.write(WORK, lease.write)
            else:
                lease.keep()
        with pytest.raises(Conflict), held(world.context, GC, "collecting"):
            pass


def test_one_of_a_server_that_was_killed(make_world: Callable[..., World]) -> None:
    """On SQLite there is one server: who holds a lease and is another is dead. On PostgreSQL nobody knows."""
    world = make_world()
    with held(world.context, GC, "collecting"):
        world.clock.advance(1)
        next_server = build_context(world.settings, clock=world.clock)
        try:
            if next_server.database.dialect == "sqlite":
                with held(next_server, GC, "collecting"):
                    pass
            else:
                next_server.database.write(WORK, lambda tx: tx.execute(update(leases).values(until=tx.now + LASTS)))
                with pytest.raises(Conflict), held(next_server, GC, "collecting"):
                    pass
        finally:
            next_server.database.close()
            next_server.logs.close()
