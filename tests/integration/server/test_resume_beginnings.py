"""From which snapshot the first and later attempts of jobs begin, on both databases."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dstack.server.db.tables import jobs as jobs_table
from tests.support.resuming import (
    CHAIN,
    VARIABLES,
    assigned,
    begins,
    failed_chain,
    restarted,
    resumed,
)
from tests.support.runner import FakeRunner
from tests.support.world import World


def test_a_first_attempt_of_a_plain_run_begins_from_nothing(world: World) -> None:
    runner = world.runner()
    world.submit(CHAIN, "report", variables=VARIABLES)
    prepare = assigned(world, runner)["prepare"]
    assert prepare.resumed == ()
    assert "DSTACK_RESUMED" not in prepare.environment


@pytest.mark.parametrize("job", [None, "train"])
def test_fresh_begins_from_nothing(world: World, job: str | None) -> None:
    runner = world.runner()
    old = failed_chain(world, runner)
    new = restarted(world, old, job, fresh=True)
    first = next(iter(assigned(world, runner).values()))
    assert (first.run_name, first.resumed) == (new, ())
    assert "DSTACK_RESUMED" not in first.environment


def test_the_newest_snapshot_of_the_newest_attempt_that_has_one(world: World) -> None:
    """Live snapshots of a killed attempt count; an attempt that never started does not."""
    runner = world.runner()
    text = CHAIN.replace('"train"]', '"train"], retry: {max: 5, on: [exit-code, runner-lost]}')
    old = world.submit(text, "train", variables=VARIABLES)
    world.place()
    runner.poll()
    runner.run("prepare")
    world.place()
    runner.poll()
    first = runner.id_of("train")
    for event in (runner.accept, runner.start):
        event(first)
    for number in (1, 2):
        world.clock.advance(1)
        runner.report(runner.snapshot(first, {"model": f"epoch {number}"}))
    world.clock.advance(1)
    runner.exit(first, 1)
    runner.save(first, {"model": "epoch 3"})
    world.clock.advance(5)
    world.sweep()
    again = assigned(world, runner)["train"]
    assert (again.number, begins(again)) == (2, {"model": manifest("epoch 3")})
    assert (again.environment["DSTACK_RESUMED_FROM"], again.resumed[0].attempt) == (old, 1)


def manifest(content: str) -> bytes:
    return FakeRunner.artifacts({"x": content})[0].manifest_id


def test_a_retry_after_a_lost_runner_begins_from_its_live_snapshot(make_world: Callable[..., World]) -> None:
    """An attempt that was lost before it started does not hide the one before it."""
    world = make_world(lease=30.0, lost_after_retry=60.0)
    first = world.runner("first", slots=1)
    text = CHAIN.replace('"train"]', '"train"], retry: {max: 5, on: [runner-lost]}')
    world.submit(text, "train", variables=VARIABLES)
    world.place()
    first.poll()
    first.run("prepare")
    world.place()
    first.poll()
    first.accept("train")
    first.start("train")
    first.report(first.snapshot("train", {"model": "epoch 7"}))
    lose(world, first)
    second = world.runner("second", slots=1)
    again = assigned(world, second)["train"]
    assert (again.number, begins(again)) == (2, {"model": manifest("epoch 7")})
    second.accept("train")
    lose(world, second)
    third = world.runner("third", slots=1)
    again = assigned(world, third)["train"]
    assert (again.number, begins(again), again.resumed[0].attempt) == (3, {"model": manifest("epoch 7")}, 1)


def lose(world: World, runner: FakeRunner) -> None:
    """The runner says nothing until it is given up."""
    for _ in range(20):
        world.clock.advance(60)
        world.sweep()
        if all(row.state not in ("starting", "running", "assigned") for row in world.rows(jobs_table)):
            break
    else:
        raise AssertionError("its jobs were never given up")
    world.clock.advance(5)
    world.sweep()


def test_an_empty_folder_is_not_put_back(world: World) -> None:
    runner = world.runner()
    old = world.submit(CHAIN, "prepare", variables=VARIABLES)
    world.place()
    runner.poll()
    runner.accept("prepare")
    runner.start("prepare")
    runner.exit("prepare", 1)
    runner.save("prepare", {"data": ""})
    resumed(world, old)
    assert assigned(world, runner)["prepare"].resumed == ()
