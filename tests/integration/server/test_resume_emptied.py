"""Jobs that emptied their artifact folder and were killed begin with what it held before, on both databases."""

from __future__ import annotations

from dstack.server.db.tables import artifacts, runs
from dstack.server.services import resume
from dstack.server.services.resume import Wish
from tests.support.resuming import (
    assigned,
    begins,
    killed_after,
    lose_snapshot,
    manifest,
    refused,
    restarted,
    retried_after,
    saved_by,
    warned,
)
from tests.support.world import World


def test_a_job_that_emptied_its_folder_begins_with_what_it_held_before(world: World) -> None:
    runner = world.runner()
    old = killed_after(world, runner, "epoch 1", "epoch 2", "", last="")
    new, warnings = warned(world, old)
    [warning] = warnings
    assert warning.startswith(
        f"the snapshot of `data` that prepare of {old} would begin with holds no file: it begins with the newest "
    )
    [planned] = resume.plan(world.context, old, Wish()).carried.warnings
    assert (planned.message, planned.hint) == (warning, f"`dstack resume {old} --fresh` begins with nothing")
    assert saved_by(world, new) == {"prepare": manifest("epoch 2")}
    [earlier] = assigned(world, runner)["prepare"].resumed
    assert (earlier.manifest_id, earlier.instead) == (manifest("epoch 2"), "empty")


def test_a_job_that_held_nothing_in_all_its_attempts_begins_with_nothing(world: World) -> None:
    runner = world.runner()
    new, warnings = warned(world, killed_after(world, runner, "", last=""))
    assert (warnings, saved_by(world, new)) == ([], {})


def test_one_that_is_done_may_have_emptied_it_on_purpose(world: World) -> None:
    runner = world.runner()
    old = killed_after(world, runner, "epoch 1", last="", code=0)
    new = restarted(world, old, "prepare")
    assert (saved_by(world, new), assigned(world, runner)["prepare"].resumed) == ({}, ())


def times(world: World) -> list[int]:
    """When the snapshots were taken."""
    return sorted(row.taken_at for row in world.rows(artifacts))


def test_what_was_empty_before_a_job_was_done_was_not_on_purpose(world: World) -> None:
    runner = world.runner()
    old = killed_after(world, runner, "epoch 1", "", "epoch 3", last="final", code=0)
    wish = Wish(restart=True, job="prepare", at=times(world)[1])
    [warning] = resume.plan(world.context, old, wish).carried.warnings
    assert " would begin with holds no file: it begins with the newest before it that does, of " in warning.message
    assert saved_by(world, restarted(world, old, "prepare", at=wish.at)) == {"prepare": manifest("epoch 1")}


def test_nor_was_what_an_attempt_left_that_failed_before_that(world: World) -> None:
    runner = world.runner()
    retried_after(world, runner, "epoch 1", last="")
    [run] = world.rows(runs)
    old = killed_after(world, runner, last="final", code=0, run=run.name)
    new = restarted(world, old, "prepare", at=times(world)[1])
    assert saved_by(world, new) == {"prepare": manifest("epoch 1")}


def test_who_goes_back_to_what_was_emptied_is_told_so(world: World) -> None:
    runner = world.runner()
    old = killed_after(world, runner, "epoch 1", last="", code=0)
    told = refused(world, old, restart=True, job="prepare", at=times(world)[-1])
    assert told.message == f"what prepare of {old} had saved by 2023-11-14 22:13:22 UTC holds no file"
    assert told.hint.endswith("; `--fresh` begins with nothing")


def test_what_was_begun_from_counts_as_held(world: World) -> None:
    """A job that goes on from a checkpoint, and is killed after it took it away."""
    runner = world.runner()
    first = killed_after(world, runner, "epoch 1", last="epoch 1")
    second = restarted(world, first)
    again = killed_after(world, runner, last="", run=second)
    new, warnings = warned(world, again)
    assert len(warnings) == 1
    assert saved_by(world, new) == {"prepare": manifest("epoch 1")}


def test_the_newest_that_is_in_the_store_too(world: World) -> None:
    runner = world.runner()
    old = killed_after(world, runner, "epoch 1", "epoch 2", last="")
    lose_snapshot(world, manifest("epoch 2"))
    new, warnings = warned(world, old)
    assert len(warnings) == 1
    assert saved_by(world, new) == {"prepare": manifest("epoch 1")}
    lose_snapshot(world, manifest("epoch 1"))
    assert "saved in `data` is not whole" in refused(world, old).message


def test_a_retry_begins_with_what_it_held_before(world: World) -> None:
    runner = world.runner()
    retried_after(world, runner, "epoch 1", "epoch 2", last="")
    again = assigned(world, runner)["prepare"]
    assert (again.number, begins(again)) == (2, {"data": manifest("epoch 2")})
    [earlier] = again.resumed
    assert (earlier.attempt, earlier.instead, earlier.older) == (1, "empty", manifest("epoch 1"))


def test_a_retry_begins_with_what_an_attempt_before_that_held(world: World) -> None:
    runner = world.runner()
    retried_after(world, runner, "epoch 1", last="epoch 2")
    retried_after(world, runner, last="", submit=False)
    again = assigned(world, runner)["prepare"]
    assert (again.number, begins(again)) == (3, {"data": manifest("epoch 2")})
    assert (again.resumed[0].attempt, again.resumed[0].instead) == (1, "empty")


def test_a_retry_after_a_plain_failure_says_nothing_of_it(world: World) -> None:
    runner = world.runner()
    retried_after(world, runner, "epoch 1", last="epoch 2")
    [earlier] = assigned(world, runner)["prepare"].resumed
    assert (earlier.instead, earlier.older) == ("", manifest("epoch 1"))
