"""Silence and deadlines: leases, lost runners, set-up, save and time limits, and clocks that are set."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import msgspec
import pytest
from sqlalchemy import update

from dstack.protocol import messages
from dstack.server.db.tables import jobs, runners, runs
from dstack.server.loops.clock_watch import ClockWatch, extend_leases
from dstack.server.loops.sweep import SWEEP, next_deadline
from dstack.server.services.rows import StoredPolicy
from tests.support.runner import FakeRunner
from tests.support.world import World

ONE = "workflows:\n  - {name: job, provider: bash, commands: ['true'], artifacts: [out]}\n"
TWO = ONE + "  - {name: other, provider: bash, commands: ['true'], depends-on: [job]}\n"
HOUR = 3600.0


def begun(world: World, policy: StoredPolicy | None = None) -> tuple[FakeRunner, str]:
    """A running job, with a policy that workflows cannot name yet."""
    runner = world.runner()
    name = world.submit(ONE, "job")
    if policy is not None:
        give(world, name, policy)
    world.place()
    runner.take()
    return runner, name


def give(world: World, name: str, policy: StoredPolicy) -> None:
    job_id = world.job_row(name, "job").id
    statement = update(jobs).where(jobs.c.id == job_id).values(policy=msgspec.msgpack.encode(policy))
    world.context.database.write(SWEEP, lambda tx: tx.execute(statement))


def state(world: World, runner: FakeRunner) -> str:
    (row,) = world.rows(runners, id=runner.runner_id)
    return row.state


def poll_for(world: World, runner: FakeRunner, seconds: float) -> None:
    """Time passes while the runner keeps polling and the server keeps sweeping."""
    while seconds > 0:
        world.clock.advance(min(seconds, 25))
        seconds -= 25
        runner.poll()
        world.sweep()


def test_an_idle_world_has_nothing_to_sweep(world: World) -> None:
    assert world.sweep() == 0
    assert next_deadline(world.context) == world.settings.tick
    world.runner()
    assert world.sweep() == 0


def test_polls_renew_the_lease(world: World) -> None:
    runner, name = begun(world)
    poll_for(world, runner, 300)
    assert state(world, runner) == "online"
    assert world.states(name) == {"job": "running"}


def test_a_silent_runner_is_lost_and_its_jobs_stay_as_they_are(world: World) -> None:
    runner, name = begun(world)
    world.clock.advance(59)
    assert world.sweep() == 0
    world.clock.advance(1)
    assert world.sweep() == 1
    assert state(world, runner) == "lost"
    job = world.job(name)
    assert (job["status"], job["status_text"], job["unreachable_since"]) == (
        "running", "Unreachable", world.clock.now(),
    )  # fmt: skip
    assert world.run(name)["status"] == "running"
    poll_for(world, world.runner("other"), 4 * 60)
    assert world.states(name) == {"job": "running"}


def test_a_lost_runner_that_calls_is_online_again(world: World) -> None:
    runner, name = begun(world)
    world.clock.advance(HOUR)
    world.sweep()
    assert state(world, runner) == "lost"
    assert not runner.poll().register
    assert state(world, runner) == "online"
    assert world.job(name)["status_text"] == "Running..."
    runner.finish("job")
    assert world.run(name)["status"] == "done"


def test_a_result_of_a_lost_runner_counts(world: World) -> None:
    runner, name = begun(world)
    world.clock.advance(HOUR)
    world.sweep()
    runner.finish("job")
    assert world.run(name)["status"] == "done"


def test_a_silent_runner_that_holds_nothing_is_offline_and_registers_again(world: World) -> None:
    runner = world.runner()
    world.clock.advance(60)
    world.sweep()
    assert state(world, runner) == "offline"
    world.submit(ONE, "job")
    assert world.place() == 0
    assert runner.poll().register
    runner.register()
    assert state(world, runner) == "online"
    assert world.place() == 1


def test_nothing_is_placed_on_a_lost_runner(world: World) -> None:
    begun(world)
    world.clock.advance(60)
    world.sweep()
    world.submit(ONE, "job")
    assert world.place() == 0


def test_lost_for_a_day_ends_the_attempt(world: World) -> None:
    runner, name = begun(world)
    runner.report(runner.snapshot("job", {"out": "half"}))
    world.clock.advance(60)
    world.sweep()
    world.clock.advance(86_400 - 1)
    world.sweep()
    assert world.states(name) == {"job": "running"}
    world.clock.advance(1)
    world.sweep()
    run = world.run(name)
    assert (run["status"], run["reason"], run["exit_code"]) == ("failed", "runner-lost", 120)
    assert "north fell silent" in run["reason_text"]
    assert [item["partial"] for item in world.job(name)["artifacts"]] == [True]
    assert state(world, runner) == "offline", "nothing is left on it"


def test_where_the_policy_retries_five_minutes_are_enough(world: World) -> None:
    policy = StoredPolicy(retry_on=("runner-lost",), retry_max=1)
    runner, name = begun(world, policy)
    world.clock.advance(60)
    world.sweep()
    world.clock.advance(299)
    world.sweep()
    assert world.states(name) == {"job": "running"}
    world.clock.advance(1)
    world.sweep()
    assert world.states(name) == {"job": "queued"}
    other = world.runner("south")
    world.clock.advance(10)
    world.sweep()
    assert world.place() == 1
    other.poll()
    assert other.held[other.id_of("job")].number == 2
    other.run("job")
    assert world.run(name)["status"] == "done"
    late = runner.exited("job", 3)
    assert runner.report(late).outcome == "ignored"
    runner.register()
    assert runner.poll().kill == (late.attempt_id,), "the server names a newer attempt: leftovers are ended"


def test_retries_end_when_the_policy_says_so(world: World) -> None:
    policy = StoredPolicy(retry_on=("runner-lost",), retry_max=1)
    runner, name = begun(world, policy)
    runner.register(restarted=True, running=[])
    world.clock.advance(10)
    world.sweep()
    world.place()
    runner.take()
    runner.register(restarted=True, running=[])
    assert world.run(name)["status"] == "failed"
    assert world.job(name)["attempt"] == 2


def test_a_new_process_returns_what_had_not_begun_and_loses_what_had(world: World) -> None:
    runner = world.runner(slots=1)
    names = [world.submit(ONE, "job") for _ in range(2)]
    world.place()
    runner.poll()
    first = next(key for key, held in runner.held.items() if held.run_name == names[0])
    runner.accept(first)
    runner.start(first)
    runner.register(restarted=True, running=[])
    assert world.states(names[0]) == {"job": "failed"}
    assert world.job(names[0])["reason"] == "runner-lost"
    assert world.states(names[1]) == {"job": "queued"}


def test_a_new_process_keeps_what_it_still_holds(world: World) -> None:
    runner, name = begun(world)
    runner.register(restarted=True)
    assert world.states(name) == {"job": "running"}
    runner.finish("job")
    assert world.run(name)["status"] == "done"


def test_the_old_process_has_to_register_again(world: World) -> None:
    runner, _ = begun(world)
    old = runner.incarnation
    runner.register(restarted=True)
    runner.incarnation, new = old, runner.incarnation
    assert runner.poll().register
    runner.goodbye()
    assert state(world, runner) == "online", "the farewell of the old process is none"
    runner.incarnation = new
    runner.goodbye()
    assert state(world, runner) == "online", "it still holds an attempt: its lease runs out, and then it is lost"
    runner.finish("job")
    runner.goodbye()
    assert state(world, runner) == "offline"


def test_a_runner_of_a_lost_database_is_taken_in_by_its_own_id(world: World) -> None:
    known = uuid.uuid4()
    runner = FakeRunner(world.context, runner_id=known)
    assert runner.poll().register
    runner.register()
    assert runner.runner_id == known


# --- deadlines ---------------------------------------------------------------------------------------------------


def test_an_assigned_job_goes_back_after_five_minutes_of_silence(world: World) -> None:
    runner = world.runner()
    name = world.submit(ONE, "job")
    world.place()
    runner.poll()
    world.clock.advance(299)
    world.sweep()
    assert world.states(name) == {"job": "assigned"}
    world.clock.advance(1)
    world.sweep()
    assert world.states(name) == {"job": "queued"}
    assert world.job_row(name, "job").counted == 0


def test_an_assigned_job_waits_as_long_as_its_runner_lives(world: World) -> None:
    runner = world.runner(slots=1)
    names = [world.submit(ONE, "job") for _ in range(2)]
    world.place()
    runner.take()
    poll_for(world, runner, 700)
    assert world.states(names[1]) == {"job": "assigned"}


def test_the_set_up_deadline(make_world: Callable[..., World]) -> None:
    world = make_world(setup_deadline=100.0)
    runner = world.runner()
    name = world.submit(TWO, "other")
    world.place()
    runner.poll()
    runner.accept("job")
    poll_for(world, runner, 90)
    assert world.states(name)["job"] == "starting"
    poll_for(world, runner, 10)
    run = world.run(name)
    assert (run["reason"], run["exit_code"]) == ("setup-timeout", 119)
    assert world.states(name)["other"] == "skipped"
    assert runner.poll().kill == (runner.id_of("job"),)


@pytest.mark.parametrize(("code", "reason", "exit_code"), [(0, "artifact-save", 121), (3, "exit-code", 3)])
def test_the_save_deadline(make_world: Callable[..., World], code: int, reason: str, exit_code: int) -> None:
    world = make_world(save_deadline=50.0)
    runner, name = begun(world)
    runner.exit("job", code)
    poll_for(world, runner, 50)
    run = world.run(name)
    assert (run["status"], run["reason"], run["exit_code"]) == ("failed", reason, exit_code)


def test_the_time_limit_stops_the_job_and_fixes_its_outcome(world: World) -> None:
    runner, name = begun(world, StoredPolicy(timeout=100.0))
    poll_for(world, runner, 90)
    assert runner.poll().stop == ()
    poll_for(world, runner, 10)
    (stop,) = runner.poll().stop
    assert not stop.abort
    assert world.states(name) == {"job": "running"}
    assert world.job_row(name, "job").deadline_at is None
    runner.finish("job", 143)
    assert (world.run(name)["reason"], world.run(name)["exit_code"]) == ("timeout", 124)


def test_a_time_limit_after_a_stop_is_over(world: World) -> None:
    runner, name = begun(world, StoredPolicy(timeout=100.0))
    world.stop(name)
    poll_for(world, runner, 110)
    assert world.job_row(name, "job").deadline_at is None
    assert world.sweep() == 0, "a deadline that is over does not spin"
    runner.finish("job", 143)
    assert world.run(name)["reason"] == "stopped"


def test_the_planning_deadline(world: World) -> None:
    name = world.submit(ONE, "job")
    back = update(runs).where(runs.c.name == name).values(state="planning", deadline_at=world.clock.now() + 600_000_000)
    world.context.database.write(SWEEP, lambda tx: tx.execute(back))
    world.clock.advance(599)
    assert world.sweep() == 0
    world.clock.advance(1)
    assert world.sweep() == 1
    run = world.run(name)
    assert (run["status"], run["reason"], run["exit_code"]) == ("failed", "plan-timeout", 2)


def test_a_back_off_wakes_the_placer(world: World) -> None:
    runner = world.runner()
    world.runner("south")
    world.submit(ONE, "job")
    world.place()
    runner.poll()
    runner.report(runner.rejected("job"))
    assert 0 < next_deadline(world.context) <= 1
    woken: list[str] = []
    world.context.database._on_commit = woken.extend  # pyright: ignore[reportPrivateUsage]
    world.clock.advance(1)
    assert world.sweep() == 1
    assert "place" in woken
    assert world.sweep() == 0, "once"
    assert world.place() == 1


def test_the_next_deadline_is_the_nearest(make_world: Callable[..., World]) -> None:
    world = make_world(tick=1000.0)
    assert next_deadline(world.context) == 1000.0
    world.runner()
    assert next_deadline(world.context) == 60.0
    world.clock.advance(59)
    assert next_deadline(world.context) == 1.0
    world.clock.advance(10)
    assert next_deadline(world.context) == 0.01


# --- starts, gaps and clocks -------------------------------------------------------------------------------------


def test_a_server_start_gives_every_runner_one_more_lease(world: World) -> None:
    runner, name = begun(world)
    world.clock.advance(HOUR)
    extend_leases(world.context)
    assert world.sweep() == 0
    world.clock.advance(59)
    assert world.sweep() == 0
    runner.poll()
    assert state(world, runner) == "online"
    assert world.states(name) == {"job": "running"}


def test_a_deadline_that_passed_while_the_server_was_down_waits_for_what_the_runner_says(
    make_world: Callable[..., World],
) -> None:
    world = make_world(setup_deadline=100.0)
    runner = world.runner()
    name = world.submit(ONE, "job")
    world.place()
    runner.poll()
    runner.accept("job")
    world.clock.advance(HOUR)
    extend_leases(world.context)
    world.sweep()
    assert world.states(name) == {"job": "starting"}
    runner.start("job")
    runner.finish("job")
    assert world.run(name)["status"] == "done"


def test_a_gap_between_ticks_longer_than_a_lease_extends_the_leases(world: World) -> None:
    runner, _ = begun(world)
    watch = ClockWatch(world.context)
    world.clock.advance(50)
    watch.look()
    world.clock.advance(HOUR)
    watch.look()
    assert world.sweep() == 0
    assert state(world, runner) == "online"
    world.clock.advance(30)
    watch.look()
    world.clock.advance(30)
    watch.look()
    assert world.sweep() == 1
    assert state(world, runner) == "lost", "but only once"


def test_a_machine_that_slept_loses_no_job(make_world: Callable[..., World]) -> None:
    """Sleep stops the monotonic clock, so that only the wall clock tells of it."""
    world = make_world(setup_deadline=100.0)
    runner = world.runner()
    name = world.submit(ONE, "job")
    world.place()
    runner.poll()
    runner.accept("job")
    watch = ClockWatch(world.context)
    world.clock.step(8 * HOUR)
    watch.look()
    assert world.sweep() == 0
    assert state(world, runner) == "online"
    assert world.states(name) == {"job": "starting"}
    poll_for(world, runner, 50)
    assert world.states(name) == {"job": "starting"}


@pytest.mark.parametrize("back", [HOUR, 5.0])
def test_a_clock_set_back_ends_nothing_early_and_lets_nothing_hang(world: World, back: float) -> None:
    runner, name = begun(world, StoredPolicy(timeout=500.0))
    watch = ClockWatch(world.context)
    world.clock.step(-back)
    watch.look()
    poll_for(world, runner, 100)
    watch.look()
    assert state(world, runner) == "online"
    assert world.states(name) == {"job": "running"}
    if world.context.database.dialect == "sqlite":
        poll_for(world, runner, 400)
        assert runner.poll().stop, "the time limit moved along"
    world.clock.advance(61)
    world.sweep()
    assert state(world, runner) == "lost", "silence is noticed in time, not an hour later"
    runner.finish("job", 143)
    run, job = world.run(name), world.job(name)
    assert run["submitted_at"] <= run["started_at"] <= run["finished_at"]
    assert job["submitted_at"] <= job["started_at"] <= job["finished_at"]


def test_a_clock_set_back_and_right_again_expires_nothing(world: World) -> None:
    if world.context.database.dialect != "sqlite":
        return  # the database's own clock counts there, and servers share it
    runner, name = begun(world, StoredPolicy(timeout=500.0))
    watch = ClockWatch(world.context)
    for step in (-HOUR, HOUR):
        world.clock.step(step)
        watch.look()
        assert world.sweep() == 0
        poll_for(world, runner, 100)
        watch.look()
    assert world.states(name) == {"job": "running"}
    assert runner.poll().stop == ()
    assert state(world, runner) == "online"


def test_a_back_off_does_not_become_an_hour(world: World) -> None:
    if world.context.database.dialect != "sqlite":
        return  # as above
    runner = world.runner()
    world.runner("south")
    world.submit(ONE, "job")
    world.place()
    runner.poll()
    runner.report(runner.rejected("job"))
    watch = ClockWatch(world.context)
    world.clock.step(-HOUR)
    watch.look()
    world.clock.advance(2)
    watch.look()
    world.sweep()
    assert world.place() == 1


def test_names_and_order_survive_a_clock_set_back(world: World) -> None:
    from dstack.server.services import views

    names = []
    for _ in range(3):
        names.append(world.submit(ONE, "job"))
        world.clock.step(-HOUR)
    page, _ = world.read(
        lambda tx: views.run_page(tx, world.context.project_id, repository_id=None, active=False, limit=10, cursor=None)
    )
    assert [run["name"] for run in page] == names[::-1], "newest first"


def test_leases_are_kept_by_the_databases_clock(world: World) -> None:
    """A second server whose clock is five minutes behind still renews what its runners' polls tell."""

    class Behind:
        def now(self) -> int:
            return world.clock.now() - 300_000_000

        def monotonic(self) -> float:
            return world.clock.monotonic()

    runner, name = begun(world)
    world.context.clock = Behind()
    poll_for(world, runner, 200)
    assert state(world, runner) == "online"
    assert world.states(name) == {"job": "running"}


def test_a_stop_of_a_job_on_a_lost_runner_is_told_when_it_calls(world: World) -> None:
    runner, name = begun(world)
    world.clock.advance(60)
    world.sweep()
    world.stop(name)
    assert world.job(name)["stopping"]
    (stop,) = runner.poll().stop
    assert stop == messages.Stop(attempt_id=runner.id_of("job"))
