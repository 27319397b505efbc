"""Conditions and policies of workflows, from the file to the end of the run."""

from __future__ import annotations

from typing import Any

import pytest

from dstack.server.services import explain as explain_service
from dstack.server.services import runs as run_service
from tests.support.world import World

CHAIN = """\
workflows:
- {name: fetch, provider: bash, commands: [a], artifacts: [data]}
- {name: train, provider: bash, commands: [b], depends-on: [fetch]}
- {name: mourn, provider: bash, commands: [c], depends-on: [train], if: failed()}
- {name: clean, provider: bash, commands: [d], depends-on: [train, fetch], if: always()}
- {name: all, provider: bash, commands: [e], depends-on: [mourn, clean], if: always()}
"""


def reason(world: World, name: str, job: str) -> str:
    return world.job(name, job)["reason_text"]


def test_a_failure_runs_what_waits_for_one(world: World) -> None:
    name = world.submit(CHAIN, "all")
    world.complete(world.runner(), codes={"fetch": 3})

    assert world.states(name) == {
        "fetch": "failed", "train": "skipped", "mourn": "done", "clean": "done", "all": "done",
    }  # fmt: skip
    assert world.run(name)["status"] == "failed", "the run failed all the same"
    assert reason(world, name, "train") == "skipped because a workflow it depends on did not succeed: fetch"


def test_a_success_skips_it_and_says_its_condition(world: World) -> None:
    name = world.submit(CHAIN, "all")
    world.complete(world.runner())

    assert world.states(name)["mourn"] == "skipped"
    assert world.job(name, "mourn")["reason"] == "condition"
    assert reason(world, name, "mourn") == "skipped because its condition is false: failed()"
    assert world.run(name)["status"] == "done"
    found = world.read(lambda tx: explain_service.explain(tx, world.context, name))
    assert found.lines == ["mourn skipped because its condition is false: failed()"]


def test_a_condition_that_is_false_from_the_start(world: World) -> None:
    text = CHAIN.replace("commands: [a]", "commands: [a], if: fresh")
    name = world.submit(text, "train", "--fresh", "false")

    assert world.states(name) == {"fetch": "skipped", "train": "skipped"}
    run = world.run(name)
    assert (run["status"], run["exit_code"]) == ("done", 0)
    assert run["finished_at"] is not None
    assert reason(world, name, "fetch") == "skipped because its condition is false: fresh"
    assert reason(world, name, "train") == "skipped because a workflow it depends on did not succeed: fetch"
    assert world.job(name, "train")["finished_at"] is not None


def test_what_will_not_run_needs_no_runner_that_has_it(world: World) -> None:
    world.runner()
    text = "workflows:\n- {name: train, provider: bash, commands: [a], if: large, resources: {memory: 900TB}}\n"
    submitted = run_service.submit(world.context, world.submission(text, "train", "--large", "no"), None)

    assert [warning.message for warning in submitted.warnings] == [
        "`train` will be skipped: its condition is false: `large`"
    ]
    assert world.run(submitted.name)["status"] == "done"


def test_what_is_skipped_from_the_start_leaves_the_rest_queued(world: World) -> None:
    text = CHAIN.replace("commands: [b]", "commands: [b], if: full == 'yes'")
    name = world.submit(text, "all", "--full", "no")

    assert world.run(name)["status"] == "queued"
    world.complete(world.runner())
    assert world.states(name) == {
        "fetch": "done", "train": "skipped", "mourn": "skipped", "clean": "done", "all": "done",
    }  # fmt: skip


def test_a_failure_that_dependents_may_ignore(world: World) -> None:
    text = CHAIN.replace("commands: [a]", "commands: [a], continue-on-failure: true")
    name = world.submit(text, "train")
    world.complete(world.runner(), codes={"fetch": 1})

    assert world.states(name) == {"fetch": "failed", "train": "done"}
    run = world.run(name)
    assert (run["status"], run["exit_code"]) == ("failed", 1)


# --- several jobs ------------------------------------------------------------------------------------------------


@pytest.fixture
def fan(monkeypatch: pytest.MonkeyPatch) -> str:
    """A workflow of three jobs, by a provider that only this test has."""
    from collections.abc import Sequence
    from typing import ClassVar

    from dstack.providers import registry
    from dstack.sdk.config import WorkflowConfig
    from dstack.sdk.provider import JobSpec, PlanContext, Provider
    from dstack.server.services import runs

    class Fan(Provider):
        name: ClassVar[str] = "fan"
        Config: ClassVar[type[Any]] = WorkflowConfig

        def plan(self, workflow: WorkflowConfig, ctx: PlanContext) -> Sequence[JobSpec]:
            return [JobSpec(name=str(number), argv=("true",), **workflow.job(ctx)) for number in range(3)]

    monkeypatch.setattr(runs, "registry", lambda: {**registry(), "fan": Fan})
    return (
        "workflows:\n- {name: fan, provider: fan, KEYS}\n"
        "- {name: after, provider: bash, commands: [a], depends-on: [fan], if: always()}\n"
    )


def test_the_first_failure_stops_the_siblings(world: World, fan: str) -> None:
    runner = world.runner(slots=2)
    name = world.submit(fan.replace("KEYS", "fail-fast: true"), "after")
    world.place()
    runner.poll()
    for job in ("fan-0", "fan-1"):
        runner.start(job)
    runner.exit("fan-0", 1)
    runner.save("fan-0")

    assert world.states(name) == {"fan-0": "failed", "fan-1": "running", "fan-2": "assigned", "after": "waiting"}
    commands = runner.poll()
    assert commands.recall == (runner.id_of("fan-2"),)
    assert [stop.attempt_id for stop in commands.stop] == [runner.id_of("fan-1")]
    runner.report(runner.recalled("fan-2"))
    assert reason(world, name, "fan-2") == "stopped by fail-fast (fan-0 failed)"
    runner.forget(runner.id_of("fan-2"))
    assert world.states(name)["after"] == "waiting", "it takes what all of them left"
    runner.finish("fan-1", 143)
    world.complete(runner)
    assert world.states(name) == {"fan-0": "failed", "fan-1": "stopped", "fan-2": "stopped", "after": "done"}
    run = world.run(name)
    assert (run["status"], run["reason_text"]) == ("failed", "fan-0 exited with code 1")


def test_otherwise_siblings_go_on_and_dependents_wait_for_all(world: World, fan: str) -> None:
    runner = world.runner(slots=3)
    name = world.submit(fan.replace("KEYS", "help: x"), "after")
    world.place()
    runner.take()
    runner.exit("fan-0", 1)
    runner.save("fan-0")

    assert world.states(name)["after"] == "waiting"
    assert world.read(lambda tx: explain_service.explain(tx, world.context, name)).waiting == [
        {"job": "after", "why": "waits for fan to finish"}
    ]
    for job in ("fan-1", "fan-2"):
        runner.finish(job)
    world.complete(runner)
    assert world.states(name) == {"fan-0": "failed", "fan-1": "done", "fan-2": "done", "after": "done"}


# --- attempts ----------------------------------------------------------------------------------------------------


def test_a_retry_that_the_workflow_asks_for(world: World) -> None:
    text = "workflows:\n- {name: train, provider: bash, commands: [a], retry: {on: failure, max: 1, backoff: 10s}}\n"
    runner = world.runner()
    name = world.submit(text, "train")

    def fail() -> None:
        world.place()
        runner.take()
        runner.exit("train", 1)
        runner.save("train")

    fail()
    assert world.job(name)["status"] == "queued"
    world.clock.advance(9)
    world.place()
    assert world.job(name)["status"] == "queued", "it backs off"
    world.clock.advance(2)
    fail()
    job = world.job(name)
    assert (job["status"], job["attempt"], job["reason"]) == ("failed", 2, "exit-code")


def test_no_retry_where_the_reason_is_another(world: World) -> None:
    text = "workflows:\n- {name: train, provider: bash, commands: [a], retry: {on: lost, max: 5}}\n"
    name = world.submit(text, "train")
    world.complete(world.runner(), codes={"train": 1})

    assert (world.job(name)["status"], world.job(name)["attempt"]) == ("failed", 1)


def test_a_time_limit_ends_an_attempt_and_may_be_tried_again(world: World) -> None:
    keys = "timeout: 1m, retry: {on: timeout, max: 1}"
    runner = world.runner()
    name = world.submit(f"workflows:\n- {{name: train, provider: bash, commands: [a], {keys}}}\n", "train")
    for _ in range(2):
        world.place()
        runner.take()
        world.clock.advance(59)
        world.sweep()
        assert not runner.poll().stop
        world.clock.advance(2)
        world.sweep()
        assert runner.poll().stop, "the runner is told to stop it"
        runner.exit("train", 143)
        runner.save("train")
        world.clock.advance(2)
    job = world.job(name)
    assert (job["status"], job["reason"], job["attempt"]) == ("failed", "timeout", 2)
    assert job["reason_text"] == "reached its time limit"
    assert world.run(name)["exit_code"] == 124
