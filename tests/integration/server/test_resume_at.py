"""Runs that follow another and go back to what its jobs had saved by a time, on both databases."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from dstack.server.db.tables import artifacts
from dstack.server.services import lineage, plans, resume
from dstack.server.services.errors import BadRequest, Conflict, NotFound
from dstack.server.services.resume import Wish
from tests.support.resuming import (
    LOSE,
    VARIABLES,
    assigned,
    begins,
    killed_after,
    lose_snapshot,
    manifest,
    refused,
    restarted,
    resumed,
    saved_by,
    warned,
)
from tests.support.runner import FakeRunner
from tests.support.world import World

SECOND = 1_000_000
TWO = """
workflows:
  - {name: prepare, provider: bash, commands: ["prepare"], artifacts: [data]}
  - {name: train, provider: bash, commands: ["train"], artifacts: [model, best], depends-on: [prepare]}
  - {name: other, provider: bash, commands: ["other"], artifacts: [out], depends-on: [prepare]}
  - {name: report, provider: bash, commands: ["report"], artifacts: [page], depends-on: [train, other]}
"""


def digits(content: str) -> str:
    return manifest(content).hex()[:12]


def two_trainings(world: World, runner: FakeRunner) -> tuple[str, dict[str, int]]:
    """prepare done, train and other failed after some snapshots; and when each was taken."""
    old = world.submit(TWO, "report", variables=VARIABLES)
    world.place()
    runner.poll()
    world.clock.advance(1)
    runner.run("prepare")
    world.place()
    runner.poll()
    for job in ("train", "other"):
        runner.accept(job)
        runner.start(job)
    times: dict[str, int] = {}
    for job, paths in (
        ("train", {"model": "m1", "best": "b1"}),
        ("other", {"out": "o1"}),
        ("train", {"model": "m2"}),
        ("other", {"out": "o2"}),
        ("train", {"model": "m3", "best": "b3"}),
    ):
        world.clock.advance(1)
        times |= dict.fromkeys(paths.values(), world.clock.now())
        runner.report(runner.snapshot(job, paths))
    world.clock.advance(1)
    runner.finish("train", 1, {"model": "nan", "best": "b3"})
    runner.finish("other", 1, {"out": "o3"})
    assert world.states(old) == {"prepare": "done", "train": "failed", "other": "failed", "report": "skipped"}
    return old, times


def test_jobs_go_back_to_what_they_had_saved_by_then(world: World) -> None:
    runner = world.runner()
    old, times = two_trainings(world, runner)
    new = resumed(world, old, at=times["m2"])
    given = assigned(world, runner)
    assert begins(given["train"]) == {"model": manifest("m2"), "best": manifest("b1")}
    assert begins(given["other"]) == {"out": manifest("o1")}
    assert {each.instead for job in given.values() for each in job.resumed} == {"asked"}
    assert [each.taken_at for each in given["other"].resumed] == [times["o1"]]
    assert world.states(new)["prepare"] == "done", "it was done, and is reused"


def test_one_goes_back_to_its_snapshot_and_the_others_go_on(world: World) -> None:
    """Of its other artifacts it has what was newest then."""
    runner = world.runner()
    old, _ = two_trainings(world, runner)
    resumed(world, old, snapshot=digits("m2"))
    given = assigned(world, runner)
    assert begins(given["train"]) == {"model": manifest("m2"), "best": manifest("b1")}
    assert begins(given["other"]) == {"out": manifest("o3")}
    assert [each.instead for each in given["other"].resumed] == [""]
    assert {each.path: each.older for each in given["train"].resumed} == {"model": manifest("m1"), "best": None}


def test_the_last_snapshot_is_the_last(world: World) -> None:
    runner = world.runner()
    old, _ = two_trainings(world, runner)
    resumed(world, old, snapshot=manifest("nan").hex())
    assert {each.instead for each in assigned(world, runner)["train"].resumed} == {""}


def test_the_plan_and_lineage_tell_of_it(world: World) -> None:
    runner = world.runner()
    old, times = two_trainings(world, runner)
    planned = resume.plan(world.context, old, Wish(snapshot=digits("m2")))
    steps = {step["name"]: step for step in plans.view(planned.plan, carried=planned.carried)["steps"]}
    shown = {each["path"]: each for each in steps["train"]["begins"]}
    assert (shown["model"]["manifest_id"], shown["model"]["at"]) == (manifest("m2").hex(), times["m2"])
    assert {each["instead"] for each in shown.values()} == {"asked"}
    assert [each["instead"] for each in steps["other"]["begins"]] == [None]
    new = resumed(world, old, snapshot=digits("m2"))
    links = world.read(lambda tx: lineage.of_run(tx, world.context.project_id, new)).links
    told = {link["path"]: (link["manifest_id"], link["instead"]) for link in links if link["how"] == "begins"}
    assert told["model"] == (manifest("m2").hex(), "asked")
    assert told["out"] == (manifest("o3").hex(), None)


def test_restart_names_a_job_that_is_done(world: World) -> None:
    """What follows it has what it had by then: nothing."""
    runner = world.runner()
    old = killed_after(world, runner, "epoch 1", "epoch 2", code=0)
    assert "`dstack restart" in refused(world, old, snapshot=digits("epoch 1")).hint
    new = restarted(world, old, "prepare", snapshot=digits("epoch 1"))
    assert saved_by(world, new) == {"prepare": manifest("epoch 1")}


def test_a_job_that_is_reused_says_so(world: World) -> None:
    runner = world.runner()
    old, times = two_trainings(world, runner)
    before = saved_by(world, old)["prepare"]
    told = refused(world, old, snapshot=before.hex())
    assert isinstance(told, Conflict)
    assert told.message == f"snapshot {before.hex()[:12]} is of prepare of {old}, which is done and is reused"
    assert told.hint == (
        f"`dstack restart {old} prepare --at {before.hex()[:12]}` starts prepare again with it, and what follows it"
    )
    early = refused(world, old, at=times["m1"] - 2 * SECOND)
    assert "had not saved anything by" in early.message


def test_reused_jobs_that_saved_something_later_are_warned_of(world: World) -> None:
    runner = world.runner()
    text = TWO.replace("depends-on: [prepare]", "depends-on: []", 1)
    old = world.submit(text, "report", variables=VARIABLES)
    world.place()
    runner.poll()
    for job in ("prepare", "train"):
        runner.accept(job)
        runner.start(job)
    runner.report(runner.snapshot("train", {"model": "m1"}))
    then = world.clock.now()
    world.clock.advance(1)
    runner.finish("prepare")
    runner.finish("train", 1)
    world.complete(runner)
    [warning] = resume.plan(world.context, old, Wish(at=then)).carried.warnings
    assert warning.message.startswith(f"other and prepare of {old} are done, and are reused as they ended, not as of ")
    assert warning.hint == f"`dstack restart {old} JOB` with the same `--at` starts JOB again from then"


def test_where_some_had_saved_nothing_by_then(world: World) -> None:
    runner = world.runner()
    old, times = two_trainings(world, runner)
    new, [warning] = warned(world, old, at=times["m1"])
    assert warning.startswith(f"other of {old} had not saved anything by ")
    assert warning.endswith(" UTC: it begins with nothing")
    assert set(saved_by(world, new)) == {"prepare", "train"}


def test_where_what_some_had_saved_by_then_was_empty(world: World) -> None:
    runner = world.runner()
    old, times = two_trainings(world, runner)
    early = update(artifacts).where(artifacts.c.taken_at == times["o1"])
    world.context.database.write(LOSE, lambda tx: tx.execute(early.values(files=0)))
    new, [warning] = warned(world, old, at=times["o1"])
    assert warning.startswith(f"what other of {old} had saved by ")
    assert warning.endswith(" UTC holds no file: it begins with nothing")
    assert set(saved_by(world, new)) == {"prepare", "train"}


@pytest.mark.parametrize("job", [None, "train"])
def test_where_none_had_it_is_refused(job: str | None, world: World) -> None:
    runner = world.runner()
    old, times = two_trainings(world, runner)
    told = refused(world, old, restart=job is not None, job=job, at=times["m1"] - SECOND)
    whose = job or "train and other"
    assert told.message.startswith(f"{whose} of {old} had not saved anything by 20")
    assert told.hint == f"`dstack artifacts log {old}` lists the snapshots; `--fresh` begins with nothing"


def test_a_job_that_was_named_had_to_have_something(world: World) -> None:
    runner = world.runner()
    old, times = two_trainings(world, runner)
    assert refused(world, old, restart=True, job="other", at=times["m1"]).message.startswith(f"other of {old} had not")


def test_what_is_no_snapshot_of_it(world: World) -> None:
    runner = world.runner()
    old, _ = two_trainings(world, runner)
    told = refused(world, old, snapshot="0" * 12)
    assert isinstance(told, NotFound)
    assert told.message == f"there is no snapshot 000000000000 of run {old}"
    assert told.hint.endswith(f"`dstack artifacts log {old}` lists the snapshots")
    for wrong in ("0123", "0123456X", "0" * 65):
        assert isinstance(refused(world, old, snapshot=wrong), BadRequest)


def test_further_back_than_the_run_reaches(world: World) -> None:
    """What it began with is all that it has of the run that it follows."""
    runner = world.runner()
    first = killed_after(world, runner, "epoch 1", "epoch 2", last="epoch 3")
    times = sorted(row.taken_at for row in world.rows(artifacts))
    second = killed_after(world, runner, "epoch 4", run=resumed(world, first))
    more = f", `dstack artifacts log {first}` those of the run that it follows"
    assert refused(world, second, snapshot=digits("epoch 1")).hint.endswith(f"lists the snapshots{more}")
    assert refused(world, second, at=times[0]).hint == (
        f"`dstack artifacts log {second}` lists the snapshots{more}; `--fresh` begins with nothing"
    )
    assert saved_by(world, resumed(world, second, snapshot=digits("epoch 3"))) == {"prepare": manifest("epoch 3")}


def test_two_that_begin_alike(world: World) -> None:
    runner = world.runner()
    old = killed_after(world, runner, "epoch 1", "epoch 2")
    for content, last in (("epoch 1", 1), ("epoch 2", 2)):
        same = update(artifacts).where(artifacts.c.manifest_id == manifest(content))
        world.context.database.write(
            LOSE, lambda tx, q=same, n=last: tx.execute(q.values(manifest_id=bytes(31) + b"%d" % n))
        )
    told = refused(world, old, snapshot="0" * 12)
    assert told.message == f"2 snapshots of run {old} begin with 000000000000: {'0' * 16}, {'0' * 16}"
    assert told.hint == "write more of it"


def test_what_cannot_be_meant(world: World) -> None:
    runner = world.runner()
    old, times = two_trainings(world, runner)
    assert isinstance(refused(world, old, at=times["m2"], fresh=True), BadRequest)
    assert isinstance(refused(world, old, snapshot=digits("m2"), fresh=True), BadRequest)
    assert isinstance(refused(world, old, snapshot=digits("m2"), at=times["m2"]), BadRequest)


def test_one_that_is_named_and_is_lost_or_empty_is_refused(world: World) -> None:
    """No other takes the place of one that was asked for by name."""
    runner = world.runner()
    old = killed_after(world, runner, "epoch 1", "", "epoch 2")
    assert refused(world, old, snapshot=digits("")).message.endswith(f" of {old} holds no file")
    lose_snapshot(world, manifest("epoch 1"))
    told = refused(world, old, snapshot=digits("epoch 1"))
    assert told.message == f"snapshot {digits('epoch 1')} of {old} is not whole in the store any more"
    assert f"`dstack verify {old} --repair`" in told.hint


def test_of_what_was_newest_then_an_older_one_takes_the_place(world: World) -> None:
    """Where it holds no file, or is lost, as without a time."""
    runner = world.runner()
    old = killed_after(world, runner, "epoch 1", "epoch 2", "", "epoch 3")
    third = sorted(row.taken_at for row in world.rows(artifacts))[2]
    new, [warning] = warned(world, old, at=third)
    assert " would begin with holds no file: " in warning
    assert saved_by(world, new) == {"prepare": manifest("epoch 2")}
    lose_snapshot(world, manifest("epoch 2"))
    new, _ = warned(world, old, at=third - SECOND)
    assert saved_by(world, new) == {"prepare": manifest("epoch 1")}
