"""Silence: leases, and what becomes of a lost runner's jobs."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable

import msgspec
import pytest
from sqlalchemy import update

from dstack.protocol import messages
from dstack.server.db.tables import jobs, runners
from dstack.server.loops.clock_watch import extend_leases
from dstack.server.loops.sweep import SWEEP, next_deadline
from dstack.server.services.apply import Batch
from dstack.server.services.rows import StoredPolicy
from tests.support.runner import FakeRunner
from tests.support.world import World, counted

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


def test_a_stop_of_a_job_on_a_lost_runner_is_told_when_it_calls(world: World) -> None:
    runner, name = begun(world)
    world.clock.advance(60)
    world.sweep()
    world.stop(name)
    assert world.job(name)["stopping"]
    (stop,) = runner.poll().stop
    assert stop == messages.Stop(attempt_id=runner.id_of("job"))


@pytest.mark.parametrize("accepted", [False, True])
def test_what_is_lost_again_and_again_before_it_starts_fails_in_the_end(
    make_world: Callable[..., World], accepted: bool
) -> None:
    """It counts against no retry, and would go round for ever."""
    world = make_world(max_unstarted=3)
    runner = world.runner()
    name = world.submit(ONE, "job")
    give(world, name, StoredPolicy(retry_on=("runner-lost",), retry_max=100))
    for _ in range(3):
        assert world.states(name) == {"job": "queued"}
        world.clock.advance(10)
        assert world.place() == 1
        runner.poll()
        if accepted:
            runner.accept("job")
        runner.register(restarted=True, running=[])
    run = world.run(name)
    assert (run["status"], run["reason"], run["exit_code"]) == ("failed", "runner-lost", 120)
    assert "placed 3 times, and lost each time before it started; at last the runner restarted" in run["reason_text"]
    assert world.place() == 0


def test_silence_before_the_start_is_counted_too(make_world: Callable[..., World]) -> None:
    world = make_world(max_unstarted=2)
    name = world.submit(ONE, "job")
    for number in range(2):
        runner = world.runner(f"r{number}")
        assert world.place() == 1
        runner.poll()
        world.clock.advance(300)
        world.sweep()
    assert world.run(name)["reason"] == "runner-lost"
    assert "lost each time before it started; at last its runner fell silent" in world.run(name)["reason_text"]


# --- what it costs -----------------------------------------------------------------------------------------------


def test_a_lost_runner_costs_nothing_until_something_of_it_may_end(world: World) -> None:
    """A day is long, and a look every few seconds that writes is too much."""
    runner = world.runner()
    names = [world.submit(ONE, "job") for _ in range(2)]
    give(world, names[0], StoredPolicy(retry_on=("runner-lost",), retry_max=1))
    world.place()
    runner.take_ids()
    world.clock.advance(60)
    assert world.sweep() == 1
    lost_at = world.clock.now()
    acted: list[float] = []
    for at in (1, 299, 300, 301, HOUR, 86_399, 86_400, 86_401):
        world.clock.advance(at - (world.clock.now() - lost_at) / 1e6)
        if world.sweep():
            acted.append(at)
    assert acted == [300, 301, 86_400], "301: the one that went back to the queue has waited for its back-off"
    assert [world.states(name)["job"] for name in names] == ["queued", "failed"]
    assert state(world, runner) == "offline"


def test_a_lost_runner_whose_jobs_have_ended_is_offline_soon(world: World) -> None:
    runner, _ = begun(world)
    world.clock.advance(60)
    world.sweep()
    assert state(world, runner) == "lost"
    runner.finish("job")
    world.sweep()
    assert state(world, runner) == "offline"


def test_a_server_that_was_away_for_days_hears_a_lost_runner_first(world: World) -> None:
    runner, name = begun(world)
    world.clock.advance(60)
    world.sweep()
    world.clock.advance(3 * 86_400)
    extend_leases(world.context)
    world.sweep()
    assert world.states(name) == {"job": "running"}
    runner.poll()
    runner.finish("job")
    assert world.run(name)["status"] == "done"


def test_many_rows_are_read_and_written_together(world: World) -> None:
    """Of runners that fall silent at once (a network that failed), and of jobs that wait for a runner that lives."""

    def cost(count: int) -> int:
        found = [world.runner(f"r{number}", slots=1) for number in range(count)]
        for _ in range(3 * count):
            world.submit(ONE, "job")
        world.place()
        for runner in found:
            runner.take_ids()
        poll_all(world, found, 290)
        world.clock.advance(20)
        statements: list[str] = []
        with counted(statements):
            assert world.sweep() == 2 * count, "those that wait for their runner's slot"
        world.clock.advance(60)
        with counted(statements):
            assert world.sweep() == count
        assert [state(world, runner) for runner in found] == ["lost"] * count
        for runner in found:
            runner.poll()
            for key in list(runner.held):
                runner.run(key)
            runner.goodbye()
        return len([text for text in statements if not text.startswith("UPDATE runners")])

    assert cost(2) == cost(8)


def poll_all(world: World, found: list[FakeRunner], seconds: float) -> None:
    for _ in range(int(seconds // 10)):
        world.clock.advance(10)
        for runner in found:
            runner.poll()


def test_a_job_that_went_on_meanwhile_is_left_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """On PostgreSQL what is due is found before its run is locked."""
    runner, name = begun(world, StoredPolicy(timeout=100.0))
    plain = Batch.load_jobs

    def load(batch: Batch, ids: Iterable[uuid.UUID]) -> None:
        plain(batch, ids)
        for row in batch.jobs.values():
            row.deadline_at = batch.tx.now + 1

    poll_for(world, runner, 50)
    world.clock.advance(50)
    monkeypatch.setattr(Batch, "load_jobs", load)
    world.sweep()
    assert world.job_row(name, "job").outcome is None
