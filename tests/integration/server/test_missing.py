"""What a runner had and does not hold any more ends; what it only had no time to name does not."""

from __future__ import annotations

import msgspec
import pytest

from dstack.protocol import messages
from dstack.server.db.tables import attempts
from dstack.server.services import runners
from tests.support.runner import FakeRunner
from tests.support.world import World

ONE = "workflows:\n  - {name: job, provider: bash, commands: ['true'], artifacts: [out]}\n"


def brought_to(world: World, state: str) -> tuple[FakeRunner, str]:
    """A job that its runner brought to `state`."""
    runner = world.runner()
    name = world.submit(ONE, "job")
    world.place()
    runner.poll()
    for step, go in (("starting", runner.accept), ("running", runner.start), ("saving", runner.exit)):
        go("job")
        if step == state:
            break
    assert world.states(name) == {"job": state}
    return runner, name


def asked_with(world: World, runner: FakeRunner, **more: object) -> messages.Commands:
    """The answer to a poll of the runner's that names nothing."""
    assert runner.runner_id is not None
    request = messages.PollRequest(runner_id=runner.runner_id, incarnation=runner.incarnation)
    found = runners.poll(world.context, msgspec.structs.replace(request, **more))
    assert isinstance(found, messages.Commands)
    return found


@pytest.mark.parametrize(
    ("state", "reason"), [("starting", "runner-lost"), ("running", "runner-lost"), ("saving", "artifact-save")]
)
def test_two_polls_that_do_not_name_it_end_it(world: World, state: str, reason: str) -> None:
    runner, name = brought_to(world, state)
    lost = runner.id_of("job")
    runner.forget(lost)
    assert runner.poll().ask == (lost,)
    assert world.states(name) == {"job": state}, "one poll may be older than the attempt"
    assert runner.poll().ask == ()
    run = world.run(name)
    assert (run["status"], run["reason"]) == ("failed", reason)
    assert "runner north does not hold it any more" in run["reason_text"]
    world.check_events()


def test_it_is_stopped_where_that_was_asked(world: World) -> None:
    runner, name = brought_to(world, "running")
    runner.forget(runner.id_of("job"))
    world.stop(name)
    runner.poll()
    runner.poll()
    assert world.run(name)["status"] == "stopped"


def test_an_end_that_was_refused_hangs_no_job(world: World) -> None:
    """The runner keeps such a result aside and forgets the attempt."""
    runner, name = brought_to(world, "running")
    assert runner.report(runner.saved("job")).outcome == "rejected", "its exit was never told"
    runner.forget(runner.id_of("job"))
    runner.poll()
    runner.poll()
    assert world.run(name)["reason"] == "runner-lost"


def test_an_assignment_whose_answer_was_lost_is_sent_again(world: World) -> None:
    runner = world.runner()
    name = world.submit(ONE, "job")
    world.place()
    for _ in range(5):
        (assignment,) = runner.poll().assign
        assert runner.missing == ()
        runner.forget(assignment.attempt_id)
    assert world.states(name) == {"job": "assigned"}
    runner.poll()
    runner.run("job")
    assert world.run(name)["status"] == "done"


def test_polls_older_than_the_attempt_end_nothing(world: World) -> None:
    """However many of them come, and however late: what the runner has not denied is only asked for."""
    runner, name = brought_to(world, "running")
    for _ in range(3):
        assert asked_with(world, runner).ask == (runner.id_of("job"),)
    runner.poll()
    assert world.states(name) == {"job": "running"}
    runner.finish("job")
    assert world.run(name)["status"] == "done"


def test_a_question_that_an_end_overtook_changes_nothing(world: World) -> None:
    runner, name = brought_to(world, "saving")
    key = runner.id_of("job")
    assert asked_with(world, runner).ask == (key,)
    runner.save("job")
    assert asked_with(world, runner, missing=(key,)) == messages.Commands()
    assert world.run(name)["status"] == "done"
    (row,) = world.rows(attempts)
    assert (row.outcome, row.late_event) == ("exit-zero", None)


def test_only_the_process_that_is_registered_can_say_so(world: World) -> None:
    runner, name = brought_to(world, "running")
    key, old = runner.id_of("job"), runner.incarnation
    runner.register(restarted=True)
    stale = messages.PollRequest(runner_id=runner.runner_id or key, incarnation=old, missing=(key,))
    assert isinstance(runners.poll(world.context, stale), runners.RunnerGone)
    assert world.states(name) == {"job": "running"}


def test_another_runners_attempts_are_none_of_its_business(world: World) -> None:
    runner, name = brought_to(world, "running")
    other = world.runner("south")
    assert asked_with(world, other, missing=(runner.id_of("job"),)) == messages.Commands()
    assert world.states(name) == {"job": "running"}
