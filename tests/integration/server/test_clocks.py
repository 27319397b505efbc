"""Starts, gaps between ticks, and clocks that are set: no deadline passes that nobody lived through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dstack.domain.ports import SECOND
from dstack.server.db.tables import packs
from dstack.server.loops.clock_watch import ClockWatch, extend_leases
from dstack.server.services.catalog import catalog_of
from dstack.server.services.gc import Wanted, collect
from dstack.server.services.rows import StoredPolicy
from tests.integration.server.test_catalog import saved
from tests.integration.server.test_sweep import HOUR, ONE, begun, poll_for, state
from tests.support.world import World


@pytest.fixture
def own_clock(sqlite_url: str, tmp_path: Path) -> Iterator[World]:
    """A world whose times are the server's own: on PostgreSQL the database's clock counts, which servers share."""
    made = World(sqlite_url, tmp_path / "home")
    yield made
    made.close()


def test_a_server_start_gives_every_runner_one_more_lease(world: World) -> None:
    runner, name = begun(world)
    world.clock.advance(HOUR)
    extend_leases(world.context)
    assert world.sweep() == 0
    world.clock.advance(59)
    assert world.sweep() == 0
    runner.poll()
    assert state(world, runner) == "online"
    assert world.states(name) == {"job": "running"}


def test_a_deadline_that_passed_while_the_server_was_down_waits_for_what_the_runner_says(
    make_world: Callable[..., World],
) -> None:
    world = make_world(setup_deadline=100.0)
    runner = world.runner()
    name = world.submit(ONE, "job")
    world.place()
    runner.poll()
    runner.accept("job")
    world.clock.advance(HOUR)
    extend_leases(world.context)
    world.sweep()
    assert world.states(name) == {"job": "starting"}
    runner.start("job")
    runner.finish("job")
    assert world.run(name)["status"] == "done"


def test_a_gap_between_ticks_longer_than_a_lease_extends_the_leases(world: World) -> None:
    runner, _ = begun(world)
    watch = ClockWatch(world.context)
    world.clock.advance(50)
    watch.look()
    world.clock.advance(HOUR)
    watch.look()
    assert world.sweep() == 0
    assert state(world, runner) == "online"
    world.clock.advance(30)
    watch.look()
    world.clock.advance(30)
    watch.look()
    assert world.sweep() == 1
    assert state(world, runner) == "lost", "but only once"


def test_a_machine_that_slept_loses_no_job(make_world: Callable[..., World]) -> None:
    """Sleep stops the monotonic clock, so that only the wall clock tells of it."""
    world = make_world(setup_deadline=100.0)
    runner = world.runner()
    name = world.submit(ONE, "job")
    world.place()
    runner.poll()
    runner.accept("job")
    watch = ClockWatch(world.context)
    world.clock.step(8 * HOUR)
    watch.look()
    assert world.sweep() == 0
    assert state(world, runner) == "online"
    assert world.states(name) == {"job": "starting"}
    poll_for(world, runner, 50)
    assert world.states(name) == {"job": "starting"}


@pytest.mark.parametrize("back", [HOUR, 5.0])
def test_a_clock_set_back_ends_nothing_early_and_lets_nothing_hang(world: World, back: float) -> None:
    runner, name = begun(world, StoredPolicy(timeout=500.0))
    watch = ClockWatch(world.context)
    world.clock.step(-back)
    watch.look()
    poll_for(world, runner, 100)
    watch.look()
    assert state(world, runner) == "online"
    assert world.states(name) == {"job": "running"}
    if world.context.database.dialect == "sqlite":
        poll_for(world, runner, 400)
        assert runner.poll().stop, "the time limit moved along"
    world.clock.advance(61)
    world.sweep()
    assert state(world, runner) == "lost", "silence is noticed in time, not an hour later"
    runner.finish("job", 143)
    run, job = world.run(name), world.job(name)
    assert run["submitted_at"] <= run["started_at"] <= run["finished_at"]
    assert job["submitted_at"] <= job["started_at"] <= job["finished_at"]


def test_a_clock_set_back_and_right_again_expires_nothing(own_clock: World) -> None:
    world = own_clock
    runner, name = begun(world, StoredPolicy(timeout=500.0))
    watch = ClockWatch(world.context)
    for step in (-HOUR, HOUR):
        world.clock.step(step)
        watch.look()
        assert world.sweep() == 0
        poll_for(world, runner, 100)
        watch.look()
    assert world.states(name) == {"job": "running"}
    assert runner.poll().stop == ()
    assert state(world, runner) == "online"


def test_a_back_off_does_not_become_an_hour(own_clock: World) -> None:
    world = own_clock
    runner = world.runner()
    world.runner("south")
    world.submit(ONE, "job")
    world.place()
    runner.poll()
    runner.report(runner.rejected("job"))
    watch = ClockWatch(world.context)
    world.clock.step(-HOUR)
    watch.look()
    world.clock.advance(2)
    watch.look()
    world.sweep()
    assert world.place() == 1


def test_names_and_order_survive_a_clock_set_back(world: World) -> None:
    from dstack.server.services import views

    names = []
    for _ in range(3):
        names.append(world.submit(ONE, "job"))
        world.clock.step(-HOUR)
    page, _ = world.read(
        lambda tx: views.run_page(tx, world.context.project_id, repository_id=None, active=False, limit=10, cursor=None)
    )
    assert [run["name"] for run in page] == names[::-1], "newest first"


def test_leases_are_kept_by_the_databases_clock(world: World) -> None:
    """A second server whose clock is five minutes behind still renews what its runners' polls tell."""

    class Behind:
        def now(self) -> int:
            return world.clock.now() - 300_000_000

        def monotonic(self) -> float:
            return world.clock.monotonic()

    runner, name = begun(world)
    world.context.clock = Behind()
    poll_for(world, runner, 200)
    assert state(world, runner) == "online"
    assert world.states(name) == {"job": "running"}


def test_what_was_asked_about_before_a_sleep_was_asked_about_lately(own_clock: World, tmp_path: Path) -> None:
    """A save that the machine slept through still relies on what it was told."""
    manifest_id = saved(own_clock, tmp_path / "a")
    watch = ClockWatch(own_clock.context)
    own_clock.clock.advance(60)
    watch.look()
    own_clock.clock.step(48 * HOUR)
    watch.look()
    [row] = own_clock.rows(packs)
    assert row.asked_at == own_clock.clock.now() - 60 * SECOND
    assert list(collect(own_clock.context, Wanted(dry_run=False)))[-1]["chunks"] == 0
    assert catalog_of(own_clock.context).missing([manifest_id]) == set()
