"""Runs that follow one whose snapshots are not all in the store, on both databases: nothing begins anew unasked."""

from __future__ import annotations

import pytest

from dstack.server.db.tables import chunks as chunks_table
from dstack.server.db.tables import packs as packs_table
from dstack.server.services import resume
from dstack.server.services.doubts import doubt
from dstack.server.services.resume import Wish
from tests.support.resuming import (
    CHAIN,
    LOSE,
    VARIABLES,
    assigned,
    begins,
    failed_chain,
    killed_after,
    lose_snapshot,
    manifest,
    refused,
    restarted,
    resumed,
    retried_after,
    saved_by,
    warned,
)
from tests.support.world import World


def test_a_job_does_not_begin_from_nothing_unasked(world: World) -> None:
    runner = world.runner()
    old = failed_chain(world, runner)
    before = saved_by(world, old)
    lose_snapshot(world, before["train"])
    told = refused(world, old)
    assert told.message == f"what train of {old} saved in `model` is not whole in the store any more"
    assert told.hint == (
        f"`dstack verify {old} --repair` looks for another copy; `dstack restart {old} train` starts train without "
        f"it, `dstack resume {old} --fresh` begins without any"
    )
    assert f"`dstack restart {old} prepare --fresh` begins" in refused(world, old, restart=True, job="prepare").hint
    assert f"`dstack restart {old} --fresh` begins" in refused(world, old, restart=True).hint
    new, warnings = warned(world, old, restart=True, job="train")
    assert warnings == [f"{told.message}: it runs without"]
    assert world.states(new)["prepare"] == "done"
    assert "train" not in saved_by(world, new)


def test_fresh_asks_for_it(world: World) -> None:
    runner = world.runner()
    old = failed_chain(world, runner)
    lose_snapshot(world, saved_by(world, old)["train"])
    new, warnings = warned(world, old, fresh=True)
    assert (world.states(new)["prepare"], warnings) == ("done", [])
    assert begins(assigned(world, runner)["train"]) == {}


@pytest.mark.parametrize("fresh", [False, True])
def test_a_job_that_is_done_does_not_run_again_unasked(world: World, fresh: bool) -> None:
    """What it took a week to compute may be had from another copy."""
    runner = world.runner()
    old = failed_chain(world, runner)
    before = saved_by(world, old)
    lose_snapshot(world, before["prepare"])
    told = refused(world, old, fresh=fresh)
    assert told.message == f"what prepare of {old} saved in `data` is not whole in the store any more"
    assert told.hint.endswith(f"`dstack restart {old} prepare` runs it again, and what follows it")
    assert refused(world, old, fresh=fresh, restart=True, job="train").message == told.message
    new, warnings = warned(world, old, fresh=fresh, restart=True, job="prepare")
    assert warnings == ([] if fresh else [f"{told.message}: it runs without"])
    assert world.states(new) == {"prepare": "queued", "train": "waiting", "report": "waiting"}
    assert saved_by(world, new) == ({} if fresh else {"train": before["train"]}), "no other job loses anything by it"


def test_who_names_one_job_has_been_told_of_all(world: World) -> None:
    """Else two that are lost would each refuse to start the other."""
    runner = world.runner()
    text = CHAIN.replace(", depends-on: [prepare]", "")
    old = world.submit(text.replace("[train]", "[prepare, train]"), "report", variables=VARIABLES)
    world.complete(runner, codes={"report": 1})
    for job in ("prepare", "train"):
        lose_snapshot(world, saved_by(world, old)[job])
    assert refused(world, old).message.endswith("; 1 more of its jobs lack what they saved")
    new, warnings = warned(world, old, restart=True, job="train")
    assert len(warnings) == 2
    assert world.states(new) == {"prepare": "queued", "train": "queued", "report": "waiting"}
    lose_snapshot(world, saved_by(world, old)["report"])
    assert len(warned(world, old, restart=True, job="train")[1]) == 3


def test_a_job_that_was_done_and_starts_again_anyway_does_so_without(world: World) -> None:
    runner = world.runner()
    old = world.submit(CHAIN, "report", variables=VARIABLES)
    world.complete(runner)
    lose_snapshot(world, saved_by(world, old)["report"])
    new, warnings = warned(world, old, restart=True, job="train")
    assert warnings == [f"what report of {old} saved in `page` is not whole in the store any more: it runs without"]
    assert world.states(new)["prepare"] == "done"


def test_an_older_snapshot_takes_the_place_of_one_that_is_lost(world: World) -> None:
    runner = world.runner()
    old = killed_after(world, runner, "epoch 1", "epoch 2", "epoch 3")
    lose_snapshot(world, manifest("the last"))
    lose_snapshot(world, manifest("epoch 3"))
    planned = resume.plan(world.context, old, Wish())
    new, warnings = warned(world, old)
    assert [warning.message for warning in planned.carried.warnings] == warnings
    assert len(warnings) == 1
    assert f"what prepare of {old} saved last in `data` is not whole in the store any more: it begins" in warnings[0]
    assert saved_by(world, new) == {"prepare": manifest("epoch 2")}
    assert begins(assigned(world, runner)["prepare"]) == {"data": manifest("epoch 2")}


def test_one_that_a_repair_found_to_name_what_is_gone_counts_as_lost(world: World) -> None:
    """Its own object is there; to put it back would fail."""
    runner = world.runner()
    old = killed_after(world, runner, "epoch 1", "epoch 2")
    doubted = [manifest("the last"), manifest("epoch 2")]
    world.context.database.write(LOSE, lambda tx: doubt(tx, world.context.project_id, doubted))
    new, [warning] = warned(world, old)
    assert "is not whole in the store any more: it begins" in warning
    assert saved_by(world, new) == {"prepare": manifest("epoch 1")}
    assert assigned(world, runner)["prepare"].resumed[0].instead == "lost"


def test_one_that_can_be_tried_instead_goes_with_it(world: World) -> None:
    """For the message of a set-up that finds it damaged further down."""
    runner = world.runner()
    old = killed_after(world, runner, "epoch 1", "epoch 2", "", "the last")
    new = resumed(world, old)
    [earlier] = assigned(world, runner)["prepare"].resumed
    assert (earlier.run_name, earlier.instead, earlier.older) == (old, "", manifest("epoch 2"))
    killed_after(world, runner, last="epoch 3", run=new)
    resumed(world, new)
    [earlier] = assigned(world, runner)["prepare"].resumed
    assert (earlier.run_name, earlier.older) == (new, manifest("the last"))


def test_where_all_older_ones_are_lost_too_it_is_refused(world: World) -> None:
    runner = world.runner()
    old = killed_after(world, runner, "epoch 1")
    lose_snapshot(world, manifest("the last"))
    lose_snapshot(world, manifest("epoch 1"))
    assert "saved in `data`" in refused(world, old).message


def test_a_job_that_was_done_goes_on_from_an_older_snapshot(world: World) -> None:
    runner = world.runner()
    old = world.submit(CHAIN, "train", variables=VARIABLES)
    world.place()
    runner.poll()
    job = runner.id_of("prepare")
    runner.accept(job)
    runner.start(job)
    world.clock.advance(1)
    runner.report(runner.snapshot(job, {"data": "half of it"}))
    runner.exit(job, 0)
    runner.save(job, {"data": "all of it"})
    runner.forget(job)
    world.complete(runner, codes={"train": 1})
    lose_snapshot(world, manifest("all of it"))
    new = resumed(world, old)
    assert world.states(new) == {"prepare": "queued", "train": "waiting"}
    assert begins(assigned(world, runner)["prepare"]) == {"data": manifest("half of it")}


def test_the_newest_that_is_whole_is_found_however_far_back(world: World) -> None:
    """Beyond the page that is read at a time."""
    runner = world.runner()
    epochs = [f"epoch {number}" for number in range(120)]
    old = killed_after(world, runner, *epochs)
    doubted = [manifest(content) for content in (*epochs[1:], "the last")]
    world.context.database.write(LOSE, lambda tx: doubt(tx, world.context.project_id, doubted))
    assert saved_by(world, resumed(world, old)) == {"prepare": manifest("epoch 0")}


def test_a_retry_begins_with_the_newest_that_is_whole(world: World) -> None:
    runner = world.runner()
    retried_after(world, runner, "epoch 1", "epoch 2", "epoch 3", last="the last")
    lose_snapshot(world, manifest("the last"))
    world.context.database.write(LOSE, lambda tx: doubt(tx, world.context.project_id, [manifest("epoch 3")]))
    [earlier] = assigned(world, runner)["prepare"].resumed
    assert (earlier.manifest_id, earlier.attempt, earlier.instead) == (manifest("epoch 2"), 1, "lost")
    assert earlier.older == manifest("epoch 1")


def test_a_retry_begins_with_what_the_run_began_with_where_its_attempts_left_nothing_whole(world: World) -> None:
    runner = world.runner()
    text = CHAIN.replace("artifacts: [data]", "artifacts: [data], retry: {max: 5, on: [exit-code]}")
    old = world.submit(text, "prepare", variables=VARIABLES)
    retried_after(world, runner, last="epoch 1", submit=False)
    world.stop(old)
    resumed(world, old)
    retried_after(world, runner, last="epoch 2", submit=False)
    lose_snapshot(world, manifest("epoch 2"))
    [earlier] = assigned(world, runner)["prepare"].resumed
    assert (earlier.run_name, earlier.manifest_id, earlier.instead) == (old, manifest("epoch 1"), "lost")


def test_a_retry_that_has_none_names_the_last(world: World) -> None:
    """Its set-up fails by name: it is not to begin from nothing unasked."""
    runner = world.runner()
    retried_after(world, runner, "epoch 1", last="epoch 2")
    for content in ("epoch 1", "epoch 2"):
        lose_snapshot(world, manifest(content))
    [earlier] = assigned(world, runner)["prepare"].resumed
    assert (earlier.manifest_id, earlier.instead) == (manifest("epoch 2"), "")


def test_what_is_begun_from_counts_as_asked_about(world: World) -> None:
    """Also the older one: garbage is not collected from under the new run."""
    runner = world.runner()
    old = killed_after(world, runner, "epoch 1")
    lose_snapshot(world, manifest("the last"))
    world.clock.advance(86_400)
    restarted(world, old)
    [row] = world.rows(chunks_table, chunk_id=manifest("epoch 1"))
    [pack] = world.rows(packs_table, pack_id=row.pack_id)
    assert pack.asked_at == world.clock.now()
