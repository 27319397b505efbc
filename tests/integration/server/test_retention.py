"""The rules of a project, on both databases: stored, checked, and applied to snapshots and to runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from dstack.domain.ports import SECOND
from dstack.server.db.engine import declare_write
from dstack.server.db.tables import artifacts, runs, tags
from dstack.server.loops.upkeep import Upkeep, keep_house
from dstack.server.services import history, retention
from dstack.server.services.context import Context
from dstack.server.services.errors import BadRequest
from tests.support.garbage import uploaded
from tests.support.runner import FakeRunner
from tests.support.world import World

UNTAG = declare_write("test-retention-untag")
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
WORKFLOWS = """
workflows:
  - {name: train, provider: bash, commands: ["true"], artifacts: [out], retry: {on: [failure], max: 2}}
  - {name: use, provider: bash, commands: ["true"], deps: ["train:v1"]}
"""


def training(world: World) -> tuple[FakeRunner, str]:
    runner = world.runner()
    name = world.submit(WORKFLOWS, "train")
    world.place()
    runner.take()
    return runner, name


def snapshots(world: World, runner: FakeRunner, count: int, *, every: float) -> None:
    for _ in range(count):
        world.clock.advance(every)
        runner.report(runner.snapshot("train", {"out": f"at {world.clock.now()}"}))


def ages(world: World) -> list[int]:
    """Minutes since each snapshot was taken, newest first."""
    return sorted((world.clock.now() - row.taken_at) // SECOND // 60 for row in world.rows(artifacts))


def attempts(world: World) -> list[int]:
    """Of which each snapshot is."""
    return sorted(row.attempt for row in world.rows(artifacts))


def test_what_a_folder_held_before_it_was_cleared_stays(world: World) -> None:
    """A job that goes on from it was killed before it wrote again."""
    runner, _ = training(world)
    snapshots(world, runner, 3, every=MINUTE)
    for _ in range(5):
        world.clock.advance(1.0)
        runner.report(runner.snapshot("train", {"out": ""}))
    held = max(row.taken_at for row in world.rows(artifacts) if row.files)
    runner.finish("train", 1, {"out": ""})
    world.clock.advance(30 * DAY)
    keep_house(world.context)
    assert [row.taken_at for row in world.rows(artifacts) if row.files] == [held]


def test_snapshots_of_a_training_are_thinned_as_they_age(world: World) -> None:
    runner, name = training(world)
    snapshots(world, runner, 180, every=MINUTE)
    keep_house(world.context)
    found = ages(world)
    assert [age for age in found if age < 60] == list(range(60)), "all of the last hour"
    assert len([age for age in found if age >= 60]) == 12, "one for each ten minutes of the two before"
    world.clock.advance(DAY)
    keep_house(world.context)
    left = len(world.rows(artifacts))
    assert 18 <= left <= 18 + 3
    page, _ = world.read(lambda tx: history.of_run(tx, world.context.project_id, name))
    assert len(page) == left, "what has gone is not told of"
    assert keep_house(world.context) == 0


def test_a_server_that_starts_has_others_to_serve_first(make_world: Callable[..., World]) -> None:
    world = make_world(upkeep_after=MINUTE, upkeep=10 * MINUTE)
    runner, _ = training(world)
    snapshots(world, runner, 180, every=MINUTE)
    upkeep = Upkeep(world.context)
    upkeep.look()
    assert (len(world.rows(artifacts)), upkeep.wait()) == (180, MINUTE)
    world.clock.advance(MINUTE)
    assert upkeep.wait() == 0
    upkeep.look()
    assert (len(world.rows(artifacts)) < 180, upkeep.wait()) == (True, 10 * MINUTE)


def test_a_tag_keeps_every_snapshot(world: World) -> None:
    runner, name = training(world)
    snapshots(world, runner, 30, every=MINUTE)
    runner.finish("train", paths={"out": "the end"})
    world.tag(name, "v1")
    world.clock.advance(10 * DAY)
    assert (keep_house(world.context), len(world.rows(artifacts))) == (0, 31)
    world.context.database.write(UNTAG, lambda tx: tx.execute(tags.delete()))
    assert keep_house(world.context) > 20


def test_a_tag_that_is_set_meanwhile_keeps_them_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, name = training(world)
    snapshots(world, runner, 30, every=MINUTE)
    runner.finish("train", paths={"out": "the end"})
    world.clock.advance(10 * DAY)
    plain = retention.thinned

    def thinned(context: Context) -> Iterator[list[UUID]]:
        for found in plain(context):
            world.tag(name, "v1")
            yield found

    monkeypatch.setattr(retention, "thinned", thinned)
    assert (keep_house(world.context), len(world.rows(artifacts))) == (0, 31)
    world.context.database.write(UNTAG, lambda tx: tx.execute(tags.delete()))
    monkeypatch.undo()
    assert keep_house(world.context) > 20


def test_what_a_later_attempt_took_the_place_of_goes_after_a_week(world: World) -> None:
    runner, name = training(world)
    snapshots(world, runner, 3, every=MINUTE)
    runner.finish("train", code=1, paths={"out": "of the first"})
    world.clock.advance(HOUR)
    runner.poll()
    world.place()
    assert runner.take() == ["train"]
    world.clock.advance(10 * DAY)
    keep_house(world.context)
    assert attempts(world) == [1, 1, 1], "the second has saved nothing yet"
    snapshots(world, runner, 1, every=MINUTE)
    world.clock.advance(6 * DAY)
    assert (keep_house(world.context), attempts(world)) == (0, [1, 1, 1, 2])
    world.clock.advance(2 * DAY)
    assert (keep_house(world.context), attempts(world)) == (3, [2])
    assert world.run(name)["jobs"][0]["attempt"] == 2


def test_runs_go_when_nobody_has_named_or_used_them(world: World, tmp_path: Path) -> None:
    old = uploaded(world, tmp_path / "a", {"f": b"1"})
    tagged = uploaded(world, tmp_path / "b", {"f": b"2"}, tags=("v1",), workflow="train")
    world.clock.advance(80 * DAY)
    young = uploaded(world, tmp_path / "c", {"f": b"3"})
    assert keep_house(world.context) == 0, "they stay for ever, unless somebody says otherwise"
    retention.set_rules(world.context, {"runs": "60d"}, "ada")
    assert retention.expired(world.context) == [old]
    assert keep_house(world.context) == 1
    assert {row.name for row in world.rows(runs)} == {tagged, young}


def test_a_run_that_another_was_given_stays(world: World, tmp_path: Path) -> None:
    source = uploaded(world, tmp_path / "a", {"f": b"1"}, workflow="train")
    world.runner()
    user = world.submit(WORKFLOWS.replace("train:v1", "train"), "use")
    world.stop(user)
    retention.set_rules(world.context, {"runs": "1d"}, None)
    world.clock.advance(3 * DAY)
    assert retention.expired(world.context) == [user]
    keep_house(world.context)
    assert retention.expired(world.context) == [source], "now nobody was given it any more"


def test_rules_are_stored_for_the_project_and_checked(world: World) -> None:
    shown = retention.shown(world.context)
    assert shown["rules"] == shown["defaults"]
    assert (shown["set_by"], shown["set_at"]) == (None, None)
    changed = retention.set_rules(world.context, {"live": "2h", "runs": "90d"}, "ada")
    assert changed["rules"] == {**shown["defaults"], "live": "2h", "runs": "90d"}
    assert (changed["set_by"], changed["set_at"]) == ("ada", world.clock.now())
    with pytest.raises(BadRequest, match="there is no rule `lve`") as raised:
        retention.set_rules(world.context, {"last": "5", "lve": "1h"}, None)
    assert raised.value.hint == "did you mean `live`?"
    assert retention.shown(world.context) == changed, "all of them or none"
    assert retention.set_rules(world.context, {"runs": "never"}, None)["rules"]["runs"] == "never"
    assert isinstance(world.context.project_id, UUID)
