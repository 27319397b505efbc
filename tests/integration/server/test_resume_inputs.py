"""Inputs of a run that follows another: those that the old run was given, or a refusal that names what is gone."""

from __future__ import annotations

from typing import Any

import pytest

from dstack.server.services import run_names
from dstack.server.services.delete import delete
from dstack.server.services.errors import Conflict
from tests.support.resuming import assigned, resumed
from tests.support.world import World

PINNED = """
workflows:
  - {name: prepare, provider: bash, commands: ["true"], artifacts: [data]}
  - {name: train, provider: bash, commands: ["true"], artifacts: [model], deps: ["prepare:latest"]}
"""


def test_pinned_inputs_stay_what_they_were(world: World) -> None:
    runner = world.runner()
    first = world.submit(PINNED, "prepare")
    world.complete(runner)
    old = world.submit(PINNED, "train")
    world.complete(runner, codes={"train": 1})
    world.clock.advance(1)
    world.submit(PINNED, "prepare")
    world.complete(runner)
    resumed(world, old)
    (given,) = assigned(world, runner)["train"].inputs
    assert given.run_name == first


@pytest.mark.parametrize("on", ["ada/data/prepare", "ada/data/first"])
def test_pinned_inputs_of_another_repository(world: World, on: str) -> None:
    theirs, ours = "git.example.org/ada/data", "git.example.org/bob/digits"
    runner = world.runner()
    first = world.submit(PINNED, "prepare", repository=theirs, remote=theirs)
    world.complete(runner)
    world.tag(first, "first")
    text = PINNED.replace("prepare:latest", on)
    old = world.submit(text, "train", repository=ours, remote=ours)
    world.complete(runner, codes={"train": 1})
    world.clock.advance(1)
    second = world.submit(PINNED, "prepare", repository=theirs, remote=theirs)
    world.complete(runner)
    world.tag(second, "first")
    resumed(world, old)
    (given,) = assigned(world, runner)["train"].inputs
    assert given.run_name == first


def test_a_pinned_input_whose_run_is_gone_is_named(world: World) -> None:
    runner = world.runner()
    first = world.submit(PINNED, "prepare")
    world.complete(runner)
    old = world.submit(PINNED, "train")
    world.complete(runner, codes={"train": 1})
    delete(world.context, [first], force=False, actor=None)
    with pytest.raises(Conflict, match=f"`data`, an input of `train`, came from run {first}, which was deleted"):
        resumed(world, old)


def test_a_pinned_input_whose_run_goes_while_it_is_planned_is_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = world.runner()
    first = world.submit(PINNED, "prepare")
    world.complete(runner)
    old = world.submit(PINNED, "train")
    world.complete(runner, codes={"train": 1})
    plain = run_names.free

    def free(*given: Any) -> str:
        delete(world.context, [first], force=False, actor=None)
        return plain(*given)

    monkeypatch.setattr(run_names, "free", free)
    with pytest.raises(Conflict, match=f"came from run {first}, which was deleted"):
        resumed(world, old)
