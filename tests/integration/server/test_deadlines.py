"""Deadlines: of assignments, set-ups, saves, plans and time limits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import update

from dstack.server.db.tables import runs
from dstack.server.loops.sweep import SWEEP, next_deadline
from dstack.server.services.rows import StoredPolicy
from tests.integration.server.test_sweep import ONE, TWO, begun, poll_for
from tests.support.world import World


def test_an_assigned_job_goes_back_after_five_minutes_of_silence(world: World) -> None:
    runner = world.runner()
    name = world.submit(ONE, "job")
    world.place()
    runner.poll()
    world.clock.advance(299)
    world.sweep()
    assert world.states(name) == {"job": "assigned"}
    world.clock.advance(1)
    world.sweep()
    assert world.states(name) == {"job": "queued"}
    assert world.job_row(name, "job").counted == 0


def test_an_assigned_job_waits_as_long_as_its_runner_lives(world: World) -> None:
    runner = world.runner(slots=1)
    names = [world.submit(ONE, "job") for _ in range(2)]
    world.place()
    runner.take()
    poll_for(world, runner, 700)
    assert world.states(names[1]) == {"job": "assigned"}


def test_the_set_up_deadline(make_world: Callable[..., World]) -> None:
    world = make_world(setup_deadline=100.0)
    runner = world.runner()
    name = world.submit(TWO, "other")
    world.place()
    runner.poll()
    runner.accept("job")
    poll_for(world, runner, 90)
    assert world.states(name)["job"] == "starting"
    poll_for(world, runner, 10)
    run = world.run(name)
    assert (run["reason"], run["exit_code"]) == ("setup-timeout", 119)
    assert world.states(name)["other"] == "skipped"
    assert runner.poll().kill == (runner.id_of("job"),)


@pytest.mark.parametrize(("code", "reason", "exit_code"), [(0, "artifact-save", 121), (3, "exit-code", 3)])
def test_the_save_deadline(make_world: Callable[..., World], code: int, reason: str, exit_code: int) -> None:
    world = make_world(save_deadline=50.0)
    runner, name = begun(world)
    runner.exit("job", code)
    poll_for(world, runner, 50)
    run = world.run(name)
    assert (run["status"], run["reason"], run["exit_code"]) == ("failed", reason, exit_code)


def test_the_time_limit_stops_the_job_and_fixes_its_outcome(world: World) -> None:
    runner, name = begun(world, StoredPolicy(timeout=100.0))
    poll_for(world, runner, 90)
    assert runner.poll().stop == ()
    poll_for(world, runner, 10)
    (stop,) = runner.poll().stop
    assert not stop.abort
    assert world.states(name) == {"job": "running"}
    assert world.job_row(name, "job").deadline_at is None
    runner.finish("job", 143)
    assert (world.run(name)["reason"], world.run(name)["exit_code"]) == ("timeout", 124)


def test_a_time_limit_after_a_stop_is_over(world: World) -> None:
    runner, name = begun(world, StoredPolicy(timeout=100.0))
    world.stop(name)
    poll_for(world, runner, 110)
    assert world.job_row(name, "job").deadline_at is None
    assert world.sweep() == 0, "a deadline that is over does not spin"
    runner.finish("job", 143)
    assert world.run(name)["reason"] == "stopped"


def test_the_planning_deadline(world: World) -> None:
    name = world.submit(ONE, "job")
    back = update(runs).where(runs.c.name == name).values(state="planning", deadline_at=world.clock.now() + 600_000_000)
    world.context.database.write(SWEEP, lambda tx: tx.execute(back))
    world.clock.advance(599)
    assert world.sweep() == 0
    world.clock.advance(1)
    assert world.sweep() == 1
    run = world.run(name)
    assert (run["status"], run["reason"], run["exit_code"]) == ("failed", "plan-timeout", 2)


def test_a_back_off_wakes_the_placer(world: World) -> None:
    runner = world.runner()
    world.runner("south")
    world.submit(ONE, "job")
    world.place()
    runner.poll()
    runner.report(runner.rejected("job"))
    assert 0 < next_deadline(world.context) <= 1
    woken: list[str] = []
    world.context.database._on_commit = woken.extend  # pyright: ignore[reportPrivateUsage]
    world.clock.advance(1)
    assert world.sweep() == 1
    assert "place" in woken
    assert world.sweep() == 0, "once"
    assert world.place() == 1


def test_the_next_deadline_is_the_nearest(make_world: Callable[..., World]) -> None:
    world = make_world(tick=1000.0)
    assert next_deadline(world.context) == 1000.0
    world.runner()
    assert next_deadline(world.context) == 60.0
    world.clock.advance(59)
    assert next_deadline(world.context) == 1.0
    world.clock.advance(10)
    assert next_deadline(world.context) == 0.01
