"""Reports whose answers bring the next jobs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.server.test_runs import TRAIN, independent
from tests.support.world import World

Make = Callable[..., World]


@pytest.fixture
def world(make_world: Make) -> World:
    return make_world(place_on_report=True)


def test_the_answer_to_a_save_brings_the_dependent(world: World) -> None:
    runner = world.runner()
    name = world.submit(TRAIN, "train")
    world.place()
    runner.poll()
    runner.run("prepare")
    assert runner.names() == ["train"]
    assert [item.path for item in runner.held[runner.id_of("train")].inputs] == ["data"]
    runner.run("train")
    assert world.run(name)["status"] == "done"
    world.check_events()


def test_a_chain_needs_no_placer(world: World) -> None:
    text = "workflows:\n  - {name: s0, provider: bash, commands: ['true']}\n" + "".join(
        f"  - {{name: s{number}, provider: bash, commands: ['true'], depends-on: [s{number - 1}]}}\n"
        for number in range(1, 8)
    )
    runner = world.runner(slots=1)
    name = world.submit(text, "s7")
    world.place()
    runner.poll()
    for number in range(8):
        runner.run(f"s{number}")
    assert world.run(name)["status"] == "done"
    world.check_events()


def test_an_answer_that_was_lost_costs_a_poll_and_no_job(world: World) -> None:
    runner = world.runner()
    world.submit(TRAIN, "train")
    world.place()
    runner.poll()
    runner.run("prepare")
    lost = runner.id_of("train")
    runner.forget(lost)
    (assignment,) = runner.poll().assign
    assert assignment.attempt_id == lost


def test_no_more_than_twice_the_slots_wait(world: World) -> None:
    runner = world.runner(slots=2)
    world.submit(independent(30), "all")
    world.place()
    runner.poll()
    assert len(runner.held) == 6
    for _ in range(10):
        for job in runner.names()[:1]:
            runner.run(job)
        assert len(runner.held) <= 6


def test_what_another_runner_gets_is_not_in_the_answer(world: World) -> None:
    north = world.runner("north", slots=1)
    name = world.submit(TRAIN, "train")
    world.place()
    north.poll()
    busy = world.submit(independent(1), "w0")
    world.place()
    north.poll()
    south = world.runner("south", slots=4)
    north.run("prepare")
    held = {runner.name: runner.names() for runner in (north, south)}
    south.poll()
    assert sorted(north.names() + south.names()) == ["train", "w0"]
    assert held["south"] == []
    assert world.states(busy)["w0"] in ("assigned", "running")
    assert world.states(name)["train"] == "assigned"
    assert south.names(), "the free runner has one of them"


def test_a_stopped_run_brings_nothing(world: World) -> None:
    runner = world.runner()
    name = world.submit(TRAIN, "train")
    world.place()
    runner.take()
    world.stop(name)
    runner.finish("prepare", 143)
    assert runner.names() == []
    assert world.run(name)["status"] == "stopped"
