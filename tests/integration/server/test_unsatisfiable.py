"""Requirements that no runner meets."""

from __future__ import annotations

from collections.abc import Callable

from dstack.domain.resources import GpuCard
from tests.support.world import World


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
    world.runner(slots=4, memory=32 << 30)
    name = world.submit(asking("memory: 64GiB, gpu: 1"), "job0")
    assert world.place() == 0
    assert world.fail_unsatisfiable() == 1
    run = world.run(name)
    assert (run["status"], run["reason"], run["exit_code"]) == ("failed", "no-capacity", 120)
    for words in ("asked for 1 CPU, 64GiB, 1 GPU", "32GiB there", "1 GPU asked, none there", "Lower `resources`"):
        assert words in run["reason_text"]


def test_a_gpu_by_name_and_memory(world: World) -> None:
    world.runner(gpus=[GpuCard("NVIDIA T4", 16 << 30)])
    good = world.submit(asking("gpu: {name: T4, memory: 8GiB}"), "job0")
    bad = world.submit(asking("gpu: {name: A100}"), "job0")
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
    runner = world.runner(slots=1)
    busy = world.submit(asking("cpu: 1", 30), "all")
    name = world.submit(asking("gpu: 1"), "job0")
    world.place()
    assert world.fail_unsatisfiable() == 1
    assert world.run(name)["status"] == "failed"
    assert len(world.complete(runner)) == 31
    assert world.run(busy)["status"] == "done"


def test_a_large_run_that_is_hopeless_fails_whole(make_world: Callable[..., World]) -> None:
    from dstack.server.loops import unsatisfiable

    world = make_world()
    world.runner()
    name = world.submit(asking("gpu: 1", 40), "all")
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
