"""What the Python environments of jobs held, as runners tell it."""

from __future__ import annotations

from typing import Any

from dstack.server.db.tables import attempts, package_lists
from dstack.server.services import compare, packages
from dstack.server.services.named import run_id_of
from tests.integration.server.test_runs import TRAIN, independent
from tests.support.runner import FakeRunner
from tests.support.world import World

OLD = ["numpy==1.26.4", "torch==2.1.0"]
NEW = ["numpy==1.26.4", "torch==2.2.0", "wheels @ https://example.org/wheels.whl"]


def held(world: World, name: str) -> list[dict[str, Any]]:
    project_id = world.context.project_id
    return world.read(lambda tx: packages.of_run(tx, project_id, run_id_of(tx, project_id, name)))


def begun(world: World, runner: FakeRunner, text: str, workflow: str, *lists: list[str] | None) -> str:
    """A run whose jobs are started one after the other, in environments with `lists`."""
    name = world.submit(text, workflow)
    for each in lists:
        world.place()
        runner.poll()
        key = next(key for key, state in runner.states.items() if state == "assigned")
        runner.accept(key)
        runner.start(key, each)
        runner.finish(key)
    return name


def test_each_list_is_stored_once_and_named_by_the_attempts(world: World) -> None:
    runner = world.runner()
    name = begun(world, runner, TRAIN, "train", OLD, OLD)
    assert held(world, name) == [{"job": "prepare", "packages": OLD}, {"job": "train", "packages": OLD}]
    other = begun(world, runner, independent(1), "w0", NEW)
    assert held(world, other) == [{"job": "w0", "packages": NEW}]
    assert len(world.rows(package_lists)) == 2
    digests = {row.digest for row in world.rows(package_lists)}
    assert {row.packages for row in world.rows(attempts)} == digests
    assert {job["packages_digest"] for job in world.run(name)["jobs"]} < {digest.hex() for digest in digests}


def test_a_python_that_is_not_ours_has_none_and_an_empty_environment_an_empty_list(world: World) -> None:
    runner = world.runner()
    name = begun(world, runner, TRAIN, "train", None, [])
    assert held(world, name) == [{"job": "train", "packages": []}]
    assert world.job(name, "prepare")["packages_digest"] is None
    assert world.job(name, "train")["packages_digest"] is not None


def test_runs_are_compared_by_what_differs(world: World) -> None:
    runner = world.runner()
    names = [begun(world, runner, independent(1), "w0", each) for each in (OLD, NEW, None)]
    assert compare.compare(world.context, names[:2])["packages"] == [
        {"name": "torch", "values": ["2.1.0", "2.2.0"]},
        {"name": "wheels", "values": [None, "https://example.org/wheels.whl"]},
    ]
    assert compare.compare(world.context, [names[0], names[2]])["packages"] == [
        {"name": "numpy", "values": ["1.26.4", None]},
        {"name": "torch", "values": ["2.1.0", None]},
    ]
    assert compare.compare(world.context, [names[0], names[0]])["packages"] == []


def test_jobs_of_one_run_that_differ_are_told_together() -> None:
    items = [{"job": "a", "packages": OLD}, {"job": "b", "packages": ["torch==2.2.0", "-e ./local"]}]
    assert packages.versions(items) == {"numpy": "1.26.4", "torch": "2.1.0, 2.2.0", "-e ./local": ""}
