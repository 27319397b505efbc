"""Requirements that no runner meets."""

from __future__ import annotations

from collections.abc import Callable

from dstack.domain.resources import GpuCard
from dstack.server.services import plans
from dstack.server.services import runs as run_service
from dstack.server.services.unsatisfiable import Fit, fit
from tests.support.world import World


def fit_of(world: World, submission: run_service.Submission) -> Fit:
    return fit(world.context, run_service.plan(world.context, submission).steps)


def asking(resources: str, count: int = 1) -> str:
    jobs = [
        f"  - {{name: job{number}, provider: bash, commands: ['true'], resources: {{{resources}}}}}"
        for number in range(count)
    ]
    names = ", ".join(f"job{number}" for number in range(count))
    return "\n".join(
        ["workflows:", *jobs, f"  - {{name: all, provider: bash, commands: ['true'], depends-on: [{names}]}}", ""]
    )


def test_it_fails_at_once_with_what_was_asked_what_is_there_and_what_to_do(world: World) -> None:
    name = world.submit(asking("memory: 64GiB, gpu: 1"), "job0")
    world.runner(slots=4, memory=32 << 30)
    assert world.place() == 0
    assert world.fail_unsatisfiable() == 1
    run = world.run(name)
    assert (run["status"], run["reason"], run["exit_code"]) == ("failed", "no-capacity", 120)
    for words in ("asked for 1 CPU, 64GiB, 1 GPU", "32GiB there", "1 GPU asked, none there", "Lower `resources`"):
        assert words in run["reason_text"]


def test_the_submission_itself_says_so(world: World) -> None:
    world.runner(memory=32 << 30)
    submission = world.submission(asking("memory: 64GiB"), "job0")
    made = run_service.submit(world.context, submission, None)
    assert world.run(made.name)["exit_code"] == 120, "nobody has to wait for the verdict"
    [warning] = made.warnings
    assert warning.message == "no runner that is online can run `job0`: 64GiB of memory asked, 32GiB there"
    assert not made.undecided
    [step] = plans.view(run_service.plan(world.context, submission), fit_of(world, submission))["steps"]
    assert step["misfit"] == "64GiB of memory asked, 32GiB there"


def test_of_a_step_that_waits_for_others_the_submission_warns(world: World) -> None:
    world.runner()
    text = asking("gpu: 1").replace("resources: {gpu: 1}}", "depends-on: [first], resources: {gpu: 1}}")
    text = text.replace("workflows:\n", "workflows:\n  - {name: first, provider: bash, commands: ['true']}\n")
    made = run_service.submit(world.context, world.submission(text, "job0"), None)
    assert ["`job0`" in warning.message for warning in made.warnings] == [True]
    assert world.run(made.name)["status"] == "queued"


def test_before_the_first_runner_nobody_knows(world: World) -> None:
    asks = run_service.submit(world.context, world.submission(asking("gpu: 1"), "job0"), None)
    plain = run_service.submit(world.context, world.submission(asking("cpu: 1"), "job0"), None)
    assert (asks.undecided, plain.undecided) == (True, False)


def test_a_gpu_by_name_and_memory(world: World) -> None:
    good = world.submit(asking("gpu: {name: T4, memory: 8GiB}"), "job0")
    bad = world.submit(asking("gpu: {name: A100}"), "job0")
    world.runner(gpus=[GpuCard("NVIDIA T4", 16 << 30)])
    world.place()
    assert world.fail_unsatisfiable() == 1
    assert world.run(good)["status"] == "running"
    assert "1 A100 GPU asked, NVIDIA T4 16GiB there" in world.run(bad)["reason_text"]


def test_not_before_a_runner_has_registered(world: World) -> None:
    name = world.submit(asking("gpu: 1"), "job0")
    world.clock.advance(86_400)
    assert world.fail_unsatisfiable() == 0
    assert world.run(name)["status"] == "queued"
    world.runner()
    assert world.fail_unsatisfiable() == 1
    assert world.run(name)["status"] == "failed"


def test_not_while_one_of_many_could(world: World) -> None:
    world.runner("small", memory=1 << 30)
    world.runner("large", memory=512 << 30, slots=1)
    first = world.submit(asking("memory: 500GiB"), "job0")
    second = world.submit(asking("memory: 500GiB"), "job0")
    world.place()
    assert world.fail_unsatisfiable() == 0
    assert world.states(first) == {"job0": "assigned"}
    assert world.run(second)["status"] in ("queued", "running"), "it waits for its turn"


def test_deployed_it_waits(make_world: Callable[..., World]) -> None:
    world = make_world(unsatisfiable_after=3600.0, lease=1e6)
    world.runner()
    name = world.submit(asking("gpu: 1"), "job0")
    world.clock.advance(3599)
    assert world.fail_unsatisfiable() == 0
    assert world.run(name)["status"] == "queued"
    world.clock.advance(1)
    assert world.fail_unsatisfiable() == 1
    assert world.run(name)["exit_code"] == 120


def test_also_when_the_queue_is_full_of_others(world: World) -> None:
    busy = world.submit(asking("cpu: 1", 30), "all")
    name = world.submit(asking("gpu: 1"), "job0")
    runner = world.runner(slots=1)
    world.place()
    assert world.fail_unsatisfiable() == 1
    assert world.run(name)["status"] == "failed"
    assert len(world.complete(runner)) == 31
    assert world.run(busy)["status"] == "done"


def test_a_large_run_that_is_hopeless_fails_whole(make_world: Callable[..., World]) -> None:
    from dstack.server.services import unsatisfiable

    world = make_world()
    name = world.submit(asking("gpu: 1", 40), "all")
    world.runner()
    size, unsatisfiable.BATCH = unsatisfiable.BATCH, 15
    try:
        assert world.fail_unsatisfiable() == 40
    finally:
        unsatisfiable.BATCH = size
    assert world.run(name)["status"] == "failed"
    assert world.states(name)["all"] == "skipped"
    world.check_events()


def test_more_cpus_than_slots(world: World) -> None:
    world.runner(slots=2)
    name = world.submit(asking("cpu: 3"), "job0")
    world.fail_unsatisfiable()
    assert "3 CPUs asked, 2 there" in world.run(name)["reason_text"]
