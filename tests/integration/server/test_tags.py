"""Tags: set, moved and removed with history; what dependencies on them pin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dstack import workflows
from dstack.server.db.tables import tag_history
from dstack.server.db.tables import tags as tags_table
from dstack.server.services import plans, tags
from dstack.server.services import runs as run_service
from dstack.server.services.errors import BadRequest, Conflict, NotFound
from dstack.server.services.repositories import RepositoryRef
from tests.support.runner import FakeRunner
from tests.support.world import REPOSITORY, World

PREPARE = """
workflows:
  - {name: prepare, provider: bash, commands: ["true"], artifacts: [data]}
  - {name: train, provider: bash, commands: ["true"], artifacts: [model], depends-on: ["prepare"]}
  - {name: newest, provider: bash, commands: ["true"], deps: [prepare]}
"""


def depending(on: str) -> str:
    return PREPARE.replace('"prepare"', f'"{on}"')


def prepared(world: World, runner: FakeRunner, content: str, code: int = 0) -> str:
    """A finished run of `prepare` whose artifact holds `content`."""
    world.clock.advance(1)
    name = world.submit(PREPARE, "prepare")
    world.place()
    runner.poll()
    runner.run("prepare", code, {"data": content})
    return name


def inputs(world: World, runner: FakeRunner, name: str) -> list[tuple[str, str]]:
    """(path, run it comes from) of what the next job of run `name` is given."""
    world.place()
    found = [item for item in runner.poll().assign if item.run_name == name]
    return [(item.path, item.run_name) for assignment in found for item in assignment.inputs]


def listing(world: World) -> list[tuple[str, str, str, bool]]:
    found = world.read(lambda tx: tags.listing(tx, world.context.project_id))
    return sorted((row["workflow"], row["name"], row["run"], row["partial"]) for row in found)


def test_latest_is_the_newest_done_run_until_it_is_set_by_hand(world: World) -> None:
    runner = world.runner(slots=8)
    first = prepared(world, runner, "1")
    second = prepared(world, runner, "2")
    prepared(world, runner, "3", code=1)
    assert inputs(world, runner, world.submit(depending("prepare:latest"), "train")) == [("data", second)]
    world.tag(first, "latest")
    assert inputs(world, runner, world.submit(depending("prepare:latest"), "train")) == [("data", first)]
    tags.untag(world.context, "latest", None, None)
    assert inputs(world, runner, world.submit(depending("prepare:latest"), "train")) == [("data", second)]


def test_deps_is_the_newest_success_whatever_latest_says(world: World) -> None:
    runner = world.runner(slots=8)
    first = prepared(world, runner, "1")
    second = prepared(world, runner, "2")
    world.tag(first, "latest")
    assert inputs(world, runner, world.submit(PREPARE, "newest")) == [("data", second)]


def test_a_step_that_is_done_counts_though_its_run_failed(world: World) -> None:
    runner = world.runner(slots=8)
    both = world.submit(depending("prepare"), "train")
    world.complete(runner, codes={"train": 1})
    assert world.run(both)["status"] == "failed"
    assert inputs(world, runner, world.submit(depending("prepare:latest"), "train")) == [("data", both)]


def test_a_colon_alone_brings_every_row_of_the_tag(world: World) -> None:
    runner = world.runner(slots=8)
    text = """
workflows:
  - {name: a, provider: bash, commands: ["true"], artifacts: [a-out]}
  - {name: b, provider: bash, commands: ["true"], artifacts: [b-out], depends-on: [a]}
  - {name: last, provider: bash, commands: ["true"], depends-on: [":good"]}
"""
    name = world.submit(text, "b")
    world.complete(runner)
    world.tag(name, "good")
    assert inputs(world, runner, world.submit(text, "last")) == [("a-out", name), ("b-out", name)]


@pytest.mark.parametrize("on", ["prepare:good", ":good"])
@pytest.mark.parametrize("change", ["move", "remove"])
def test_a_dependency_is_pinned_when_it_is_submitted(world: World, change: str, on: str) -> None:
    runner = world.runner(slots=8)
    first = prepared(world, runner, "1")
    second = prepared(world, runner, "2")
    world.tag(first, "good")
    name = world.submit(depending(on), "train")
    if change == "move":
        world.tag(second, "good")
    else:
        tags.untag(world.context, "good", None, None)
    world.place()
    (assignment,) = runner.poll().assign
    (pinned,) = assignment.inputs
    assert (assignment.run_name, pinned.run_name) == (name, first)
    assert pinned.manifest_id == FakeRunner.artifacts({"data": "1"})[0].manifest_id


def test_newest_is_pinned_too(world: World) -> None:
    runner = world.runner(slots=8)
    first = prepared(world, runner, "1")
    name = world.submit(depending("prepare:latest"), "train")
    world.place()
    runner.poll()
    held = runner.held[runner.id_of("train")]
    prepared(world, runner, "2")
    assert [item.run_name for item in held.inputs] == [first]
    assert world.states(name) == {"train": "assigned"}, "and prepare was not run"


def test_a_tag_moves_and_every_change_is_kept(world: World) -> None:
    runner = world.runner()
    first, second = prepared(world, runner, "1"), prepared(world, runner, "2")
    world.tag(first, "good")
    assert listing(world) == [("prepare", "good", first, False)]
    world.clock.advance(1)
    world.tag(second, "good")
    assert listing(world) == [("prepare", "good", second, False)]
    assert (world.run(first)["tags"], world.run(second)["tags"]) == ([], ["good"])
    (removed,) = tags.untag(world.context, "good", None, None)
    assert removed["run"] == second
    assert listing(world) == []
    history = sorted(world.rows(tag_history, name="good"), key=lambda row: row.id)
    runs = {world.run(name)["id"][4:]: name for name in (first, second)}
    assert [runs[row.run_id.hex] if row.run_id else None for row in history] == [first, second, None]
    assert [row.set_by for row in history[:2]] == ["ada", "ada"]


def test_untag_takes_a_runs_name_for_all_its_tags(world: World) -> None:
    runner = world.runner()
    name = prepared(world, runner, "1")
    for tag in ("one", "two"):
        world.tag(name, tag)
    assert len(tags.untag(world.context, name, None, None)) == 2
    assert listing(world) == []


def test_untag_of_one_workflow_leaves_the_others(world: World) -> None:
    runner = world.runner()
    name = world.submit(depending("prepare"), "train")
    world.complete(runner)
    world.tag(name, "good")
    tags.untag(world.context, "good", None, "train")
    assert listing(world) == [("prepare", "good", name, False)]


def test_untag_sent_again_is_no_error_and_removes_nothing(world: World) -> None:
    """The answer was lost, and meanwhile somebody may have set the tag anew."""
    runner = world.runner()
    name = prepared(world, runner, "1")
    world.tag(name, "good")
    assert len(tags.untag(world.context, "good", None, None, "key")) == 1
    assert tags.untag(world.context, "good", None, None, "key") == []
    world.tag(name, "good")
    assert tags.untag(world.context, "good", None, None, "key") == []
    assert len(tags.untag(world.context, "good", None, None, "another")) == 1
    for _ in range(2):
        with pytest.raises(NotFound):
            tags.untag(world.context, "good", None, None, "a third")


def test_untag_of_nothing_names_what_there_is(world: World) -> None:
    runner = world.runner()
    world.tag(prepared(world, runner, "1"), "good")
    with pytest.raises(NotFound) as caught:
        tags.untag(world.context, "bad", None, None)
    assert "good" in caught.value.hint


def test_tags_of_a_submission_are_set_when_it_is_done(world: World) -> None:
    runner = world.runner()
    name = world.submit(depending("prepare"), "train", tags=["good", "v1.0"])
    assert listing(world) == []
    world.place()
    runner.poll()
    runner.run("prepare")
    assert listing(world) == [], "not before the whole run is done"
    world.complete(runner)
    assert listing(world) == [(flow, tag, name, False) for flow in ("prepare", "train") for tag in ("good", "v1.0")]
    assert world.run(name)["tags"] == ["good", "v1.0"]
    assert {row.set_by for row in world.rows(tag_history)} == {"ada"}


@pytest.mark.parametrize("end", ["failed", "stopped"])
def test_a_run_that_did_not_end_well_gets_no_tag(world: World, end: str) -> None:
    runner = world.runner()
    name = world.submit(depending("prepare"), "train", tags=["good"])
    if end == "failed":
        world.complete(runner, codes={"train": 1})
    else:
        world.stop(name)
    assert world.run(name)["status"] == end
    assert listing(world) == []


def test_a_bad_name_is_refused_before_anything_runs(world: World) -> None:
    for name in ("", "-rf", "a b", "../x", "a:b", "é" * 10, "x" * 129, "a\nb"):
        with pytest.raises(BadRequest):
            world.submit(PREPARE, "prepare", tags=[name])


def test_a_failed_run_is_tagged_by_force_only_and_shows_as_partial(world: World) -> None:
    runner = world.runner(slots=8)
    name = prepared(world, runner, "half", code=1)
    with pytest.raises(Conflict) as caught:
        world.tag(name, "bad")
    assert "--force" in caught.value.hint
    (tag,) = world.tag(name, "bad", force=True)
    assert tag["partial"]
    plan = run_service.plan(world.context, world.submission(depending("prepare:bad"), "train"))
    assert plan.steps[0].inputs[0].partial
    assert any("partial" in warning.message for warning in plan.warnings)


def test_a_run_that_saved_nothing_is_not_tagged_by_force_either(world: World) -> None:
    name = world.submit(depending("prepare"), "train")
    world.stop(name)
    with pytest.raises(Conflict) as caught:
        world.tag(name, "bad", force=True)
    assert f"run {name} stopped and saved nothing" in caught.value.message
    assert world.rows(tags_table) == []


def test_of_a_failed_run_what_saved_nothing_gets_no_tag(world: World) -> None:
    runner = world.runner()
    name = world.submit(depending("prepare"), "train")
    world.place()
    runner.take()
    runner.finish("prepare")
    world.stop(name)
    assert [(tag["workflow"], tag["partial"]) for tag in world.tag(name, "half", force=True)] == [("prepare", True)]
    # The run is not whole; what the job that ended well has saved is.
    plan = run_service.plan(world.context, world.submission(depending("prepare:half"), "train"))
    assert [item.partial for item in plan.steps[0].inputs] == [False]
    assert not any("partial" in warning.message for warning in plan.warnings)


def test_a_run_under_way_cannot_be_tagged(world: World) -> None:
    name = world.submit(PREPARE, "prepare")
    with pytest.raises(Conflict) as caught:
        world.tag(name, "good", force=True)
    assert "-t good" in caught.value.hint


def test_tagging_a_run_tags_what_it_reused(world: World) -> None:
    runner = world.runner(slots=8)
    first = prepared(world, runner, "1")
    name = world.submit(depending("prepare:latest"), "train")
    world.complete(runner)
    world.tag(name, "good")
    assert listing(world) == [("prepare", "good", first, False), ("train", "good", name, False)]
    assert world.run(name)["tags"] == ["good"]
    again = world.submit(depending("prepare:good"), "train")
    assert inputs(world, runner, again) == [("data", first)]


def test_an_unknown_tag_is_told_with_near_names_and_makes_no_run(world: World) -> None:
    runner = world.runner()
    world.tag(prepared(world, runner, "1"), "golden")
    before = len(listing(world))
    with pytest.raises(workflows.Invalid) as caught:
        world.submit(depending("prepare:goldne"), "train")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.message == "there is no tag `prepare:goldne`"
    assert "golden" in diagnostic.hint
    assert (diagnostic.file, diagnostic.line) == (".dstack/workflows.yaml", 4)
    assert len(listing(world)) == before


def test_no_success_yet(world: World) -> None:
    with pytest.raises(workflows.Invalid) as caught:
        world.submit(depending("prepare:latest"), "train")
    assert "there is no tag `prepare:latest`" in caught.value.diagnostics[0].message


def test_tags_belong_to_a_repository(world: World) -> None:
    runner = world.runner(slots=8)
    world.tag(prepared(world, runner, "1"), "good")
    with pytest.raises(workflows.Invalid):
        world.submit(depending("prepare:good"), "train", repository="git:example.org/other:.")


def test_tags_stay_when_a_repository_gets_a_remote(world: World) -> None:
    runner = world.runner(slots=8)
    first = prepared(world, runner, "1")
    world.tag(first, "good")
    moved = {"repository": "git:example.org/new:.", "aliases": [REPOSITORY]}
    name = world.submit(depending("prepare:good"), "train", **moved)
    assert inputs(world, runner, name) == [("data", first)]
    again = world.submit(depending("prepare:good"), "train", repository="git:example.org/new:.")
    assert world.run(again)["repository"] == world.run(first)["repository"]


def test_the_name_of_now_outranks_an_old_one(world: World) -> None:
    a = world.submit(PREPARE, "prepare", repository="id:one:.")
    b = world.submit(PREPARE, "prepare", repository="git:remote:.")
    ref = RepositoryRef(key="git:remote:.", aliases=("id:one:.",))
    found = world.read(lambda tx: run_service.find_repository(tx, world.context.project_id, ref))
    assert world.run(a)["repository"] == "id:one:."
    c = world.submit(PREPARE, "prepare", repository="git:remote:.", aliases=["id:one:."])
    assert world.run(b)["repository"] == world.run(c)["repository"] == "git:remote:."
    assert found is not None


def test_the_plan_warns_of_a_latest_that_is_older_than_the_newest(world: World) -> None:
    runner = world.runner(slots=8)
    first, second = prepared(world, runner, "1"), prepared(world, runner, "2")

    def warnings() -> list[Any]:
        plan = run_service.plan(world.context, world.submission(depending("prepare:latest"), "train"))
        return plans.view(plan)["warnings"]

    assert warnings() == []
    world.tag(second, "latest")
    assert warnings() == []
    world.tag(first, "latest")
    (warning,) = warnings()
    assert warning.severity == "warning"
    assert first in warning.message
    assert second in warning.message
    assert warning.line == 4


def test_the_plan_shows_what_is_reused_from_where(world: World) -> None:
    runner = world.runner(slots=8)
    first = prepared(world, runner, "1")
    plan = plans.view(run_service.plan(world.context, world.submission(depending("prepare:latest"), "train")))
    reuse, run = plan["steps"]
    assert (reuse["action"], reuse["workflow"], reuse["from"]) == ("reuse", "prepare", first)
    assert (run["action"], run["name"], run["artifacts"]) == ("run", "train", ["model"])


def test_artifacts_of_another_attempt_do_not_mix(make_world: Callable[..., World]) -> None:
    world = make_world()
    runner = world.runner()
    name = world.submit(PREPARE, "prepare")
    world.place()
    runner.take()
    runner.report(runner.snapshot("prepare", {"data": "live"}))
    late = runner.snapshot("prepare", {"data": "late"})
    runner.finish("prepare", 0, {"data": "last"})
    assert runner.report(late).outcome == "ignored"
    (artifact,) = world.job(name)["artifacts"]
    assert not artifact["partial"]
    assert artifact["content_id"] == FakeRunner.artifacts({"data": "last"})[0].content_id.hex()


def test_a_run_that_there_is_not_is_told_with_near_names(world: World) -> None:
    name = world.submit(PREPARE, "prepare")
    with pytest.raises(NotFound, match="there is no run") as refused:
        world.tag(f"{name}0", "v1")
    assert refused.value.hint == f"did you mean {name}?"
