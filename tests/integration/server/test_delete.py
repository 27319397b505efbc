"""Deleting runs: what goes, what stays, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from dstack.server.db.tables import (
    artifacts,
    attempts,
    events,
    idempotency_keys,
    jobs,
    retired_run_names,
    runs,
    steps,
    submissions,
    tag_history,
    tags,
)
from dstack.server.services import delete, names
from dstack.server.services.errors import BadRequest
from tests.support.runner import FakeRunner
from tests.support.world import World

PREPARE = """
workflows:
  - {name: prepare, provider: bash, commands: ["true"], artifacts: [data]}
  - {name: train, provider: bash, commands: ["true"], deps: [prepare]}
"""


def done(world: World, runner: FakeRunner, **more: Any) -> str:
    """A finished run of `prepare`."""
    name = world.submit(PREPARE, "prepare", **more)
    world.complete(runner)
    return name


def deleted(world: World, *names: str, force: bool = False) -> delete.Deleted:
    return delete.delete(world.context, names, force=force, actor="ada")


def test_everything_of_a_run_goes(world: World) -> None:
    runner = world.runner()
    name = done(world, runner, key="k")
    kept = done(world, runner)
    assert deleted(world, name).deleted == [name]
    (run,) = world.rows(runs)
    assert run.name == kept
    for table in (steps, jobs, attempts, events, artifacts, submissions):
        assert {row.run_id for row in world.rows(table)} == {run.id}, table.name
    assert world.rows(idempotency_keys) == []


def test_its_name_is_never_used_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = world.runner()
    monkeypatch.setattr(names, "ADJECTIVES", ["bold"])
    monkeypatch.setattr(names, "ANIMALS", ["ant"])
    name = done(world, runner)
    deleted(world, name)
    assert [row.name for row in world.rows(retired_run_names)] == [name]
    assert world.submit(PREPARE, "prepare") != name


def test_an_unfinished_run_is_left_alone(world: World) -> None:
    name = world.submit(PREPARE, "prepare")
    [refused] = deleted(world, name, force=True).refused
    assert (refused.why, refused.hint) == (f"{name} is not finished (queued)", f"stop it first: dstack stop {name}")
    assert world.run(name)["status"] == "queued"


def test_a_tagged_run_needs_force_and_loses_its_tags(world: World) -> None:
    runner = world.runner()
    name = done(world, runner)
    world.tag(name, "v1")
    [refused] = deleted(world, name).refused
    assert (refused.why, "--force" in refused.hint) == (f"{name} is tagged `v1`", True)
    assert deleted(world, name, force=True).deleted == [name]
    assert world.rows(tags) == []
    last = max(world.rows(tag_history), key=lambda row: row.id)
    assert (last.name, last.run_id, last.set_by) == ("v1", None, "ada")


def test_a_run_whose_artifacts_an_unfinished_run_uses_stays(world: World) -> None:
    runner = world.runner()
    name = done(world, runner)
    user = world.submit(PREPARE, "train")
    [refused] = deleted(world, name, force=True).refused
    assert refused.why == f"{user}, which is not finished, uses artifacts of {name}"
    world.complete(runner)
    assert deleted(world, name).deleted == [name]
    assert world.run(user)["status"] == "done", "its own record stays"


def test_each_of_several_gets_its_answer(world: World) -> None:
    runner = world.runner()
    first, second = done(world, runner), done(world, runner)
    found = deleted(world, first, "nobody-1", second, first)
    assert found.deleted == [first, second]
    assert [item.why for item in found.refused] == ["there is no run `nobody-1`"]
    assert len(found.streams) == 2
    with pytest.raises(BadRequest):
        deleted(world, *(f"a-{number}" for number in range(501)))


def test_the_newest_success_is_then_the_one_before(world: World) -> None:
    runner = world.runner()
    first, second = done(world, runner), done(world, runner)
    deleted(world, second)
    user = world.submit(PREPARE, "train")
    [refused] = deleted(world, first).refused
    assert user in refused.why
