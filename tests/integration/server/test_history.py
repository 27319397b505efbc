"""Every snapshot of a run's artifacts, in pages, by run and by tag."""

from __future__ import annotations

from typing import Any

import pytest

from dstack.server.services import artifacts, history
from dstack.server.services.errors import NotFound
from tests.support.world import World

TWO = """
workflows:
  - {name: prepare, provider: bash, commands: ["true"], artifacts: [data]}
  - {name: train, provider: bash, commands: ["true"], artifacts: [out], depends-on: [prepare]}
"""


def told(rows: list[dict[str, Any]]) -> list[tuple[str, int, bool, bool]]:
    return [(row["job"], row["attempt"], bool(row["live"]), bool(row["partial"])) for row in rows]


def of_run(world: World, name: str, **more: Any) -> history.Page:
    return world.read(lambda tx: history.of_run(tx, world.context.project_id, name, **more))


def test_every_snapshot_newest_first(world: World) -> None:
    runner = world.runner()
    name = world.submit(TWO, "train")
    world.place()
    runner.poll()
    runner.run("prepare")
    world.place()
    runner.poll()
    runner.accept("train")
    runner.start("train")
    for number in range(3):
        world.clock.advance(1)
        runner.report(runner.snapshot("train", {"out": f"state {number}"}))
    assert told(of_run(world, name)[0]) == [("train", 1, True, True)] * 3 + [("prepare", 1, False, False)]
    world.clock.advance(1)
    runner.finish("train", 0, {"out": "the end"})
    found, following = of_run(world, name)
    assert (told(found)[0], len(found), following) == (("train", 1, False, False), 5, None)
    assert [row["at"] for row in found] == sorted((row["at"] for row in found), reverse=True)
    assert told(of_run(world, name, job="prepare")[0]) == [("prepare", 1, False, False)]
    assert len(of_run(world, name, workflow="train")[0]) == 4


def test_pages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = world.runner()
    name = world.submit(TWO, "prepare")
    world.place()
    runner.poll()
    runner.accept("prepare")
    runner.start("prepare")
    for number in range(5):
        world.clock.advance(1)
        runner.report(runner.snapshot("prepare", {"data": str(number)}))
    whole = [row["id"] for row in of_run(world, name)[0]]
    monkeypatch.setattr(history, "MOST", 2)
    paged: list[Any] = []
    cursor = None
    for _ in range(3):
        rows, cursor = of_run(world, name, cursor=cursor)
        paged += [row["id"] for row in rows]
    assert (paged, cursor) == (whole, None)


def test_of_a_tag_only_what_it_points_to(world: World) -> None:
    runner = world.runner(slots=4)
    first, second = world.submit(TWO, "train"), world.submit(TWO, "prepare")
    world.complete(runner)
    world.tag(first, "v1")
    world.tag(second, "v1")

    def of_tag(tag: str) -> list[tuple[str, str]]:
        rows, _ = world.read(lambda tx: history.of_tag(tx, world.context.project_id, tag, None))
        return sorted((row["run"], row["job"]) for row in rows)

    assert of_tag("v1") == sorted([(first, "train"), (second, "prepare")]), "prepare:v1 moved to the second"
    with pytest.raises(NotFound):
        of_tag("v2")


def test_an_unknown_run_is_told_with_near_names(world: World) -> None:
    name = world.submit(TWO, "prepare")
    with pytest.raises(NotFound) as raised:
        of_run(world, name[:-1] + "7")
    assert name in raised.value.hint


def test_a_job_that_there_is_not_is_not_said_to_have_saved_nothing(world: World) -> None:
    name = world.submit(TWO, "train")
    world.complete(world.runner())
    world.tag(name, "v1")
    project_id = world.context.project_id
    for listed in (history.of_run, artifacts.of_run):
        with pytest.raises(NotFound, match=f"run {name} has no job `trian`") as refused:
            world.read(lambda tx, listed=listed: listed(tx, project_id, name, job="trian"))
        assert refused.value.hint == "did you mean train?"
    for listed in (history.of_tag, artifacts.of_tag):
        with pytest.raises(NotFound, match="tag v1 has no job `evaluate`") as refused:
            world.read(lambda tx, listed=listed: listed(tx, project_id, "v1", None, workflow="evaluate"))
        assert refused.value.hint == "jobs: prepare, train"


def test_a_job_that_has_saved_nothing_yet(world: World) -> None:
    name = world.submit(TWO, "train")
    assert of_run(world, name, job="train") == ([], None)
    assert world.read(lambda tx: artifacts.of_run(tx, world.context.project_id, name, job="train")) == []
