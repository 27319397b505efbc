"""A job goes to a runner that has its large inputs, as long as that has room; nothing else about placing changes."""

from __future__ import annotations

import pytest

from tests.support.runner import FakeRunner
from tests.support.world import World

WORKFLOWS = """\
workflows:
  - {name: prepare, provider: bash, artifacts: [data], commands: ["true"]}
  - {name: train, provider: bash, depends-on: [prepare], commands: ["true"]}
  - {name: again, provider: bash, deps: [prepare], commands: ["true"]}
  - {name: alone, provider: bash, commands: ["true"]}
"""
MADE = "what prepare made"
HELD = FakeRunner.artifacts({"data": MADE})[0].manifest_id


def prepared(world: World, workflow: str, *, slots: int) -> tuple[FakeRunner, FakeRunner]:
    """`prepare` is done and `workflow` waits for a place; the first runner has a job that goes on, the second none."""
    first = world.runner("north", slots=slots)
    world.submit(WORKFLOWS, "alone")
    world.place()
    assert first.take() == ["alone"]
    second = world.runner("south", slots=slots)
    world.submit(WORKFLOWS, "train" if workflow == "train" else "prepare")
    world.place()
    second.poll()
    second.run("prepare", paths={"data": MADE})
    if workflow != "train":
        world.submit(WORKFLOWS, workflow)
    return first, second


@pytest.mark.parametrize("workflow", ["train", "again"])
@pytest.mark.parametrize("holds", [True, False])
def test_a_job_goes_where_its_inputs_are(world: World, workflow: str, holds: bool) -> None:
    """Though another runner has fewer jobs; where none has them, to that one."""
    first, second = prepared(world, workflow, slots=4)
    first.inputs = (bytes(32), HELD) if holds else (bytes(32),)
    first.poll()
    world.place()
    first.poll()
    second.poll()
    assert (workflow in first.names(), workflow in second.names()) == (holds, not holds)


def test_without_room_there_it_goes_elsewhere(world: World) -> None:
    first, second = prepared(world, "again", slots=1)
    first.inputs = (HELD,)
    first.poll()
    world.place()
    first.poll()
    second.poll()
    assert (first.names(), second.names()) == (["alone"], ["again"])


def test_what_a_runner_has_no_more_brings_it_nothing(world: World) -> None:
    holder = world.runner("north")
    holder.inputs = (HELD,)
    holder.poll()
    assert world.context.holdings == {holder.runner_id: frozenset([HELD])}
    holder.inputs = ()
    holder.poll()
    assert world.context.holdings == {}
