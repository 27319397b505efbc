"""Stop and abort, in each state a job can be in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dstack.protocol import messages
from dstack.server.services.errors import NotFound
from tests.support.runner import FakeRunner
from tests.support.world import World

TWO = """
workflows:
  - {name: first, provider: bash, commands: ["true"], artifacts: [out]}
  - {name: second, provider: bash, commands: ["true"], depends-on: [first]}
"""


def test_a_queued_run_ends_at_once(world: World) -> None:
    name = world.submit(TWO, "second")
    assert world.stop(name).outcome == "applied"
    run = world.run(name)
    assert (run["status"], run["exit_code"], run["reason"]) == ("stopped", 122, "stopped")
    assert world.states(name) == {"first": "stopped", "second": "stopped"}
    assert "stopped by ada" in run["reason_text"]
    assert not run["stopping"]


def test_a_prefetched_job_is_recalled(world: World) -> None:
    runner = world.runner()
    name = world.submit(TWO, "second")
    world.place()
    runner.poll()
    assert world.stop(name).outcome == "applied"
    job = world.job(name, "first")
    assert (job["status"], job["stopping"], job["status_text"]) == ("assigned", True, "Stopping...")
    commands = runner.poll()
    assert commands.recall == (runner.id_of("first"),)
    assert commands.stop == ()
    assert runner.report(runner.recalled("first")).outcome == "applied"
    assert world.states(name) == {"first": "stopped", "second": "stopped"}
    assert world.run(name)["status"] == "stopped"


def test_a_job_that_was_accepted_meanwhile_stops_too(world: World) -> None:
    runner = world.runner()
    name = world.submit(TWO, "second")
    world.place()
    runner.poll()
    world.stop(name)
    assert runner.accept("first").outcome == "applied"
    assert world.states(name)["first"] == "stopped"
    assert runner.poll().kill == (runner.id_of("first"),), "it began to set up: the server says that it is over"


def test_one_that_no_runner_has_yet_is_named_for_recall(world: World) -> None:
    runner = world.runner()
    name = world.submit(TWO, "second")
    world.place()
    world.stop(name)
    commands = runner.poll()
    (assignment,) = commands.assign
    assert commands.recall == (assignment.attempt_id,)


def test_a_job_that_started_while_its_poll_was_held_is_told(world: World) -> None:
    runner = world.runner()
    name = world.submit(TWO, "second")
    world.place()
    runner.take()
    world.stop(name)
    runner.states[runner.id_of("first")] = "assigned"  # what it said when it asked
    assert [stop.attempt_id for stop in runner.poll().stop] == [runner.id_of("first")]


@pytest.mark.parametrize("abort", [False, True])
def test_a_running_job_is_told_and_ends_stopped(world: World, abort: bool) -> None:
    runner = world.runner()
    name = world.submit(TWO, "second")
    world.place()
    runner.take()
    world.stop(name, abort=abort)
    assert world.job(name, "first")["status_text"] == ("Aborting..." if abort else "Stopping...")
    assert world.run(name)["stopping"]
    assert world.states(name)["second"] == "stopped"
    (stop,) = runner.poll().stop
    assert (stop.attempt_id, stop.abort) == (runner.id_of("first"), abort)
    runner.stops[stop.attempt_id] = "abort" if abort else "stop"
    assert runner.poll().stop == (), "told once"

    key = runner.id_of("first")
    runner.exit(key, 143, aborted=abort)
    if not abort:
        assert world.states(name)["first"] == "saving"
        runner.save(key)
    run = world.run(name)
    assert (run["status"], run["reason"], run["exit_code"]) == ("stopped", "aborted" if abort else "stopped", 122)
    artifacts = world.job(name, "first")["artifacts"]
    assert [item["partial"] for item in artifacts] == ([] if abort else [True])


def test_abort_keeps_what_was_saved_before_as_partial(world: World) -> None:
    runner = world.runner()
    name = world.submit(TWO, "first")
    world.place()
    runner.take()
    runner.report(runner.snapshot("first", {"out": "one epoch"}))
    world.stop(name, abort=True)
    key = runner.id_of("first")
    runner.exit(key, 137, aborted=True)
    assert runner.report(runner.saved(key)).outcome == "ignored", "nothing more is saved"
    (artifact,) = world.job(name)["artifacts"]
    assert artifact["partial"]


def test_stop_can_become_abort_and_not_back(world: World) -> None:
    runner = world.runner()
    name = world.submit(TWO, "first")
    world.place()
    runner.take()
    key = runner.id_of("first")
    world.stop(name)
    runner.stops[key] = "stop"
    assert world.stop(name, abort=True).outcome == "applied"
    (stop,) = runner.poll().stop
    assert stop.abort
    assert world.stop(name).outcome == "ignored"


def test_a_stop_outranks_the_exit_code(world: World) -> None:
    runner = world.runner()
    name = world.submit(TWO, "first")
    world.place()
    runner.take()
    world.stop(name)
    runner.finish("first", 1)
    assert (world.run(name)["status"], world.run(name)["exit_code"]) == ("stopped", 122)


def test_a_stop_while_saving_changes_no_outcome(world: World) -> None:
    runner = world.runner()
    name = world.submit(TWO, "first")
    world.place()
    runner.take()
    runner.exit("first", 0)
    assert world.stop(name).outcome == "applied"
    runner.save("first")
    assert (world.run(name)["status"], world.run(name)["exit_code"]) == ("done", 0)
    assert not world.job(name)["artifacts"][0]["partial"]


def test_an_abort_ends_the_last_save_and_a_stop_does_not(world: World) -> None:
    """Its runner is told once; the job has finished, and it is said that its artifacts are not saved."""
    runner = world.runner()
    name = world.submit(TWO, "first")
    world.place()
    runner.take()
    key = runner.id_of("first")
    runner.exit("first", 0)
    world.stop(name)
    assert runner.poll().stop == ()
    world.stop(name, abort=True)
    (stop,) = runner.poll().stop
    assert stop.abort
    runner.stops[key] = "abort"
    assert runner.poll().stop == ()
    refused = messages.SaveRefused(attempt_id=key, at=runner.now(), detail="it was aborted before all of it was saved")
    assert runner.report(refused).outcome == "applied"
    assert world.run(name)["status"] == "failed"
    assert "could not be saved: it was aborted before all of it was saved" in world.job(name)["reason_text"]


def test_a_stop_while_saving_lets_no_dependent_begin(world: World) -> None:
    runner = world.runner()
    name = world.submit(TWO, "second")
    world.place()
    runner.take()
    runner.exit("first", 0)
    world.stop(name)
    runner.save("first")
    assert world.states(name) == {"first": "done", "second": "stopped"}
    assert world.run(name)["status"] == "stopped"


def _end(world: World, runner: FakeRunner, name: str) -> None:
    world.complete(runner)


def _fail(world: World, runner: FakeRunner, name: str) -> None:
    world.complete(runner, codes={"first": 1})


def _stop(world: World, runner: FakeRunner, name: str) -> None:
    world.stop(name)


@pytest.mark.parametrize("end", [_end, _fail, _stop])
def test_a_finished_run_says_so_and_stays_as_it_is(world: World, end: Callable[[World, FakeRunner, str], Any]) -> None:
    runner = world.runner()
    name = world.submit(TWO, "second")
    end(world, runner, name)
    before = world.run(name)
    for abort in (False, True):
        answer = world.stop(name, abort=abort)
        assert (answer.outcome, answer.detail) == ("ignored", "already finished")
    assert world.run(name) == before


def test_stop_twice_is_answered_as_the_first_time(world: World) -> None:
    runner = world.runner()
    name = world.submit(TWO, "first")
    world.place()
    runner.take()
    assert world.stop(name).outcome == "applied"
    assert world.stop(name).outcome == "ignored"
    runner.finish("first", 143)
    assert world.story(name, "run")[-1] == ("roll-up", "running", "stopped")
    world.check_events()


def test_a_rejection_after_stop_ends_the_job(world: World) -> None:
    runner = world.runner()
    name = world.submit(TWO, "first")
    world.place()
    runner.poll()
    world.stop(name)
    runner.report(runner.rejected("first", "no room"))
    run = world.run(name)
    assert run["status"] == "stopped"


def test_who_asked_is_recorded(world: World) -> None:
    from dstack.server.db.tables import events, runs

    name = world.submit(TWO, "first")
    world.stop(name, actor="grace")
    (run,) = world.rows(runs, name=name)
    assert (run.intent, run.intent_by, run.intent_at) == ("stop", "grace", world.clock.now())
    assert {row.actor for row in world.rows(events, run_id=run.id, event="stop-asked")} == {"grace"}


def test_a_lost_job_that_was_asked_to_stop_ends_stopped(world: World) -> None:
    runner = world.runner()
    name = world.submit(TWO, "first")
    world.place()
    runner.take()
    world.stop(name)
    runner.register(restarted=True, running=[])
    assert world.run(name)["status"] == "stopped"


FAN = """
workflows:
  - {name: one, provider: bash, commands: ["true"]}
  - {name: two, provider: bash, commands: ["true"]}
  - {name: after-one, provider: bash, commands: ["true"], depends-on: [one]}
  - {name: all, provider: bash, commands: ["true"], depends-on: [after-one, two]}
"""


def test_one_job_is_stopped_and_the_others_go_on(world: World) -> None:
    runner = world.runner()
    name = world.submit(FAN, "all")
    world.place()
    runner.take()
    assert world.stop(name, job="one").outcome == "applied"
    assert [stop.attempt_id for stop in runner.poll().stop] == [runner.id_of("one")]
    assert world.job(name, "one")["stopping"]
    assert (world.run(name)["status"], world.run(name)["stopping"]) == ("running", False)
    assert world.stop(name, job="one").detail == "stop was asked already"
    runner.finish("one", 143)
    assert world.states(name) == {"one": "stopped", "two": "running", "after-one": "skipped", "all": "skipped"}
    answer = world.stop(name, job="one", abort=True)
    assert (answer.outcome, answer.detail) == ("ignored", "already finished")
    runner.finish("two")
    run = world.run(name)
    assert (run["status"], run["reason"], run["exit_code"]) == ("stopped", "stopped", 122)
    assert "stopped by ada" in run["reason_text"]
    world.check_events()


def test_a_job_that_waits_is_stopped_at_once(world: World) -> None:
    runner = world.runner()
    name = world.submit(FAN, "all")
    assert world.stop(name, job="after-one", abort=True).outcome == "applied"
    assert world.states(name) == {"one": "queued", "two": "queued", "after-one": "stopped", "all": "skipped"}
    world.complete(runner)
    assert world.states(name) == {"one": "done", "two": "done", "after-one": "stopped", "all": "skipped"}
    assert world.run(name)["reason"] == "aborted"


def test_a_job_that_there_is_not(world: World) -> None:
    name = world.submit(FAN, "all")
    with pytest.raises(NotFound, match=f"run {name} has no job `tow`") as refused:
        world.stop(name, job="tow")
    assert refused.value.hint == "did you mean two?"
    assert set(world.states(name).values()) == {"queued", "waiting"}
