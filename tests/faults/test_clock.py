"""A clock that is set back while a run is on its way, through the clock port: nothing lasts less than no time, and
nothing ends or waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import update

from dstack.server.db.tables import jobs
from dstack.server.loops.clock_watch import ClockWatch
from dstack.server.loops.sweep import SWEEP
from dstack.server.services import stopping
from dstack.server.services.rows import StoredPolicy
from tests.support.world import World

HOUR = 3600.0
WORKFLOWS = """\
workflows:
  - {name: first, provider: bash, commands: ['true'], artifacts: [out]}
  - {name: second, provider: bash, depends-on: [first], commands: ['true']}
"""
STEPS = (
    "submitted", "placed", "polled", "first accepted", "first started", "first exited", "first saved",
    "second placed", "second started", "second ended",
)  # fmt: skip


@pytest.fixture
def world(sqlite_url: str, tmp_path: Path) -> Iterator[World]:
    made = World(sqlite_url, tmp_path / "home")
    yield made
    made.close()


@pytest.mark.parametrize("step", [-HOUR, -2.0, HOUR])
@pytest.mark.parametrize("after", range(len(STEPS)), ids=STEPS)
def test_set_between_any_two_events(world: World, step: float, after: int) -> None:
    runner = world.runner()
    watch = ClockWatch(world.context)
    name = ""

    def submit() -> None:
        nonlocal name
        name = world.submit(WORKFLOWS, "second")

    course: list[Callable[[], object]] = [
        submit,
        world.place,
        runner.poll,
        lambda: runner.accept("first"),
        lambda: runner.start("first"),
        lambda: runner.exit("first"),
        lambda: runner.save("first", {"out": "kept"}),
        lambda: (world.place(), runner.poll()),
        lambda: (runner.accept("second"), runner.start("second")),
        lambda: runner.finish("second"),
    ]
    for number, event in enumerate(course):
        event()
        world.clock.advance(1)
        runner.poll()
        if number == after:
            world.clock.step(step)
        watch.look()
        assert world.sweep() == 0, "no deadline has passed"
    assert world.run(name)["status"] == "done"
    assert_no_negative_durations(world, name)
    world.check_events()


def test_set_back_behind_the_start_of_the_server(world: World) -> None:
    """Leases go on being kept: a runner that falls silent is noticed within a lease, not an hour and one."""
    runner = world.runner()
    watch = ClockWatch(world.context)
    name = world.submit(WORKFLOWS, "first")
    world.place()
    runner.take()
    world.clock.step(-HOUR)
    for _ in range(12):
        world.clock.advance(5)
        runner.poll()
        watch.look()
        assert world.sweep() == 0
    for _ in range(13):
        world.clock.advance(5)
        watch.look()
        world.sweep()
    assert world.job(name)["status_text"] == "Unreachable"
    assert world.job(name)["unreachable_since"] <= world.clock.now()
    runner.poll()
    runner.finish("first")
    assert world.run(name)["status"] == "done"


def test_time_limit_of_a_job_that_started_just_after_the_clock_was_set(world: World) -> None:
    """Its deadline is right already: moved along with the others, the job would end at once."""
    runner = world.runner()
    watch = ClockWatch(world.context)
    name = world.submit(WORKFLOWS, "first")
    world.place()
    row = world.job_row(name, "first")
    policy = msgspec.msgpack.encode(StoredPolicy(timeout=500.0))
    change = update(jobs).where(jobs.c.id == row.id).values(policy=policy)
    world.context.database.write(SWEEP, lambda tx: tx.execute(change))
    world.clock.step(-HOUR)
    runner.take()
    world.clock.advance(1)
    watch.look()
    assert world.sweep() == 0
    stopped_after = 1
    while not runner.poll().stop:
        world.clock.advance(50)
        stopped_after += 50
        watch.look()
        world.sweep()
    assert stopped_after == 501


def test_stop_while_the_clock_is_behind(world: World) -> None:
    runner = world.runner()
    name = world.submit(WORKFLOWS, "second")
    world.place()
    runner.take()
    world.clock.step(-HOUR)
    assert stopping.stop(world.context, name, abort=False, actor="ada").outcome == "applied"
    runner.finish("first", 143)
    assert world.run(name)["status"] == "stopped"
    assert_no_negative_durations(world, name)


def assert_no_negative_durations(world: World, name: str) -> None:
    run = world.run(name)
    for item in (run, *run["jobs"]):
        times = [item[key] for key in ("submitted_at", "started_at", "finished_at") if item[key] is not None]
        assert times == sorted(times), item["name"]
