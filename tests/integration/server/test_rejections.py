"""Attempts that never began: rejected, recalled, not known to a new process of the runner."""

from __future__ import annotations

from tests.support.world import World

ONE = "workflows:\n  - {name: job, provider: bash, commands: ['true']}\n"


def test_a_rejected_job_goes_to_another_runner(world: World) -> None:
    north = world.runner("north")
    name = world.submit(ONE, "job")
    world.place()
    north.poll()
    south = world.runner("south")
    assert north.report(north.rejected("job", "disk full on /scratch")).outcome == "applied"
    north.forget(north.id_of("job"))
    assert world.states(name) == {"job": "queued"}
    assert world.place() == 0, "it backs off"
    world.clock.advance(2)
    world.sweep()
    assert world.place() == 1
    assert north.poll().assign == ()
    (assignment,) = south.poll().assign
    assert assignment.number == 2
    south.run("job")
    job = world.job(name)
    assert (job["status"], job["attempt"], job["runner"]) == ("done", 2, "south")
    assert job["reason_text"] == "finished", "what the first runner said is not said of the second"


def test_after_five_rejections_the_job_fails(world: World) -> None:
    found = [world.runner(f"r{number}") for number in range(6)]
    name = world.submit(ONE, "job")
    for _ in range(5):
        world.clock.advance(400)
        for runner in found:
            runner.poll()
        assert world.place() == 1
        (holder,) = [runner for runner in found if runner.poll().assign or runner.held]
        holder.report(holder.rejected("job", "no room"))
        holder.forget(holder.id_of("job"))
    run = world.run(name)
    assert (run["status"], run["reason"], run["exit_code"]) == ("failed", "runner-rejected", 120)
    assert "no room" in run["reason_text"]
    world.check_events()


def test_the_back_off_grows_and_is_shown(world: World) -> None:
    found = [world.runner(f"r{number}") for number in range(3)]
    name = world.submit(ONE, "job")
    waits: list[float] = []
    for _ in range(3):
        world.place()
        (holder,) = [runner for runner in found if runner.poll().assign or runner.held]
        holder.report(holder.rejected("job"))
        holder.forget(holder.id_of("job"))
        row = world.job_row(name, "job")
        waits.append((row.not_before - world.clock.now()) / 1e6)
        world.clock.advance(waits[-1])
    assert waits == [1, 2, 4]


def test_returned_attempts_count_neither_as_attempts_nor_as_rejections(world: World) -> None:
    runner = world.runner()
    name = world.submit(ONE, "job")
    for number in range(1, world.settings.max_unstarted):
        world.place()
        runner.poll()
        assert world.job(name)["attempt"] == number
        runner.register(restarted=True, running=[])
        assert world.states(name) == {"job": "queued"}
    row = world.job_row(name, "job")
    assert (row.counted, row.rejections) == (0, 0)
    world.complete(runner)
    assert world.run(name)["status"] == "done"
    assert world.job_row(name, "job").counted == 1


def test_a_rejection_by_the_only_runner_tells_its_words(world: World) -> None:
    runner = world.runner()
    name = world.submit(ONE, "job")
    world.place()
    runner.poll()
    runner.report(runner.rejected("job", "disk full on /scratch"))
    assert world.fail_unsatisfiable() == 1
    run = world.run(name)
    assert (run["status"], run["exit_code"]) == ("failed", 120)
    assert "disk full on /scratch" in run["reason_text"]


def test_a_rejection_twice_excludes_once(world: World) -> None:
    import msgspec

    runner = world.runner()
    world.runner("south")
    name = world.submit(ONE, "job")
    world.place()
    runner.poll()
    event = runner.rejected("job")
    first, again = runner.report_all(event, event)
    assert (first.outcome, again.outcome) == ("applied", "ignored")
    assert runner.report(event).outcome == "ignored"
    row = world.job_row(name, "job")
    assert row.rejections == 1
    assert msgspec.msgpack.decode(row.excluded) == [runner.runner_id.bytes if runner.runner_id else None]
