"""A run from its submission to its end: placement order, dependents, failures, roll-up, exit codes."""

from __future__ import annotations

import pytest

from tests.support.world import World

TRAIN = """
workflows:
  - name: prepare
    provider: bash
    commands: [make data]
    artifacts: [data]
  - name: train
    provider: bash
    depends-on: [prepare]
    commands: [make model]
    artifacts: [model]
"""

DIAMOND = """
workflows:
  - {name: a, provider: bash, commands: ["true"]}
  - {name: left, provider: bash, commands: ["true"], depends-on: [a]}
  - {name: right, provider: bash, commands: ["true"], depends-on: [a]}
  - {name: end, provider: bash, commands: ["true"], depends-on: [left, right]}
"""


def independent(count: int) -> str:
    """`all` needs w0 … w<count-1>, which need nothing."""
    names = ", ".join(f"w{number}" for number in range(count))
    lines = [f"  - {{name: w{number}, provider: bash, commands: ['true']}}" for number in range(count)]
    last = f"  - {{name: all, provider: bash, commands: ['true'], depends-on: [{names}]}}"
    return "\n".join(["workflows:", *lines, last, ""])


def test_a_run_goes_through_every_state(world: World) -> None:
    runner = world.runner()
    name = world.submit(TRAIN, "train")
    run = world.run(name)
    assert (run["status"], run["workflow"], run["user"], run["exit_code"]) == ("queued", "train", "ada", None)
    assert world.states(name) == {"prepare": "queued", "train": "waiting"}

    assert world.place() == 1
    assert world.states(name) == {"prepare": "assigned", "train": "waiting"}
    (assignment,) = runner.poll().assign
    assert assignment.spec.commands == ("make data",)
    assert (assignment.run_name, assignment.job_name, assignment.number) == (name, "prepare", 1)
    for step, state in ((runner.accept, "starting"), (runner.start, "running"), (runner.exit, "saving")):
        assert step("prepare").outcome == "applied"
        assert world.states(name)["prepare"] == state
        assert world.run(name)["status"] == "running"
    assert runner.save("prepare").outcome == "applied"
    assert world.states(name) == {"prepare": "done", "train": "queued"}

    world.place()
    (assignment,) = runner.poll().assign
    assert [(item.path, item.run_name, item.job_name) for item in assignment.inputs] == [("data", name, "prepare")]
    runner.run("train")
    run = world.run(name)
    assert (run["status"], run["exit_code"], run["reason"]) == ("done", 0, "exit-zero")
    assert [item["path"] for job in run["jobs"] for item in job["artifacts"]] == ["data", "model"]
    assert not any(item["partial"] for job in run["jobs"] for item in job["artifacts"])
    world.check_events()


def test_events_tell_the_whole_story(world: World) -> None:
    runner = world.runner()
    name = world.submit(TRAIN, "prepare")
    world.complete(runner)
    assert world.story(name) == [
        ("created", None, "queued"),
        ("placed", "queued", "assigned"),
        ("accepted", "assigned", "starting"),
        ("started", "starting", "running"),
        ("exited", "running", "saving"),
        ("saved", "saving", "done"),
    ]
    assert world.story(name, "run") == [
        ("planned", "planning", "queued"),
        ("roll-up", "queued", "running"),
        ("roll-up", "running", "done"),
    ]


def test_a_diamond_runs_its_branches_side_by_side(world: World) -> None:
    runner = world.runner(slots=2)
    name = world.submit(DIAMOND, "end")
    assert world.complete(runner) == ["a", "left", "right", "end"]
    assert world.run(name)["status"] == "done"
    world.check_events()


def test_branches_run_up_to_the_slots_and_wait_up_to_twice_as_many(world: World) -> None:
    runner = world.runner(slots=3)
    name = world.submit(independent(20), "all")
    assert world.place() == 9, "3 to run and 6 that wait on the runner"
    assert world.place() == 0
    assert len(runner.take()) == 3
    assert list(world.states(name).values()).count("assigned") == 6
    assert world.place() == 0, "who waits on a runner is not placed twice"

    runner.exit("w0")
    assert world.place() == 1, "saving holds no slot"
    assert len(world.complete(runner)) == 17, "all but w0, and `all`, which waits for w1 and w2"


def test_gpu_jobs_do_not_wait_ahead(world: World) -> None:
    from dstack.domain.resources import GpuCard

    runner = world.runner(slots=4, gpus=[GpuCard("A100", 80 << 30)])
    text = "workflows:\n" + "".join(
        f"  - {{name: g{number}, provider: bash, commands: ['true'], resources: {{gpu: 1}}}}\n" for number in range(3)
    )
    text += "  - {name: all, provider: bash, commands: ['true'], depends-on: [g0, g1, g2]}\n"
    world.submit(text, "all")
    assert world.place() == 1
    runner.take()
    assert world.place() == 0
    runner.finish("g0")
    assert world.place() == 1


def test_jobs_are_placed_by_age_across_runs(world: World) -> None:
    first = world.submit(independent(2), "w0")
    world.clock.advance(1)
    second = world.submit(independent(2), "w1")
    world.runner(slots=1)
    world.place()
    assert world.states(first) == {"w0": "assigned"}
    assert world.states(second) == {"w1": "assigned"}, "waits behind it"
    assert world.job_row(first, "w0").attempt == 1


def test_two_runners_share_the_work(world: World) -> None:
    north, south = world.runner("north", slots=1), world.runner("south", slots=1)
    world.submit(independent(2), "all")
    world.place()
    assert sorted([*north.take(), *south.take()]) == ["w0", "w1"]
    assert len(north.names()) == 1


def test_a_failure_skips_dependents_and_lets_the_rest_finish(world: World) -> None:
    runner = world.runner(slots=1)
    text = DIAMOND + "  - {name: top, provider: bash, commands: ['true'], depends-on: [end, right]}\n"
    name = world.submit(text, "top")
    assert world.complete(runner, codes={"left": 3}) == ["a", "left", "right"]
    assert world.states(name) == {"a": "done", "left": "failed", "right": "done", "end": "skipped", "top": "skipped"}
    run = world.run(name)
    assert (run["status"], run["exit_code"], run["reason"]) == ("failed", 3, "exit-code")
    assert run["reason_text"] == "left exited with code 3"
    assert {job["reason"] for job in run["jobs"] if job["status"] == "skipped"} == {"dependency"}
    world.check_events()


def test_the_root_cause_is_the_first_failure(world: World) -> None:
    runner = world.runner(slots=2)
    name = world.submit(independent(2), "all")
    world.place()
    runner.take()
    world.clock.advance(5)
    runner.finish("w1", 7)
    world.clock.advance(5)
    runner.finish("w0", 9)
    assert (world.run(name)["reason_text"], world.run(name)["exit_code"]) == ("w1 exited with code 7", 7)


def test_a_run_whose_jobs_ended_is_not_open_while_another_goes_on(world: World) -> None:
    runner = world.runner(slots=2)
    name = world.submit(independent(2), "all")
    world.place()
    runner.take()
    runner.finish("w0", 1)
    assert world.run(name)["status"] == "running"
    assert world.run(name)["exit_code"] is None
    runner.finish("w1")
    assert world.run(name)["status"] == "failed"


@pytest.mark.parametrize(
    ("code", "reason", "words"),
    [
        (1, "exit-code", "exited with code 1"),
        (137, "signal", "ended by signal 9 (SIGKILL) or exit code 137"),
        (139, "signal", "ended by signal 11 (SIGSEGV) or exit code 139"),
        (255, "exit-code", "exited with code 255"),
    ],
)
def test_the_exit_code_is_the_jobs_own(world: World, code: int, reason: str, words: str) -> None:
    runner = world.runner()
    name = world.submit(TRAIN, "prepare")
    world.complete(runner, codes={"prepare": code})
    run = world.run(name)
    assert (run["exit_code"], run["reason"]) == (code, reason)
    assert run["reason_text"] == f"prepare {words}"


def test_a_process_that_left_no_exit_status_is_125(world: World) -> None:
    runner = world.runner()
    name = world.submit(TRAIN, "prepare")
    world.place()
    runner.take()
    runner.exit("prepare", None)
    runner.save("prepare")
    assert (world.run(name)["exit_code"], world.run(name)["reason"]) == (125, "unknown-exit")


def test_a_failed_set_up_is_119_and_says_why(world: World) -> None:
    from dstack.protocol import messages

    runner = world.runner()
    name = world.submit(TRAIN, "train")
    world.place()
    runner.poll()
    runner.accept("prepare")
    key = runner.id_of("prepare")
    runner.report(messages.SetupFailed(attempt_id=key, at=runner.now(), detail="no python 3.99; there is 3.11"))
    run = world.run(name)
    assert (run["status"], run["exit_code"], run["reason"]) == ("failed", 119, "setup-failed")
    assert run["reason_text"] == "prepare could not be set up: no python 3.99; there is 3.11"
    assert world.states(name) == {"prepare": "failed", "train": "skipped"}


def test_a_save_that_failed_after_success_is_121(world: World) -> None:
    from dstack.protocol import messages

    runner = world.runner()
    name = world.submit(TRAIN, "train")
    world.place()
    runner.take()
    runner.report(runner.snapshot("prepare", {"data": "half"}))
    runner.exit("prepare", 0)
    runner.report(messages.SaveRefused(attempt_id=runner.id_of("prepare"), at=runner.now(), detail="disk full on /s"))
    run = world.run(name)
    assert (run["exit_code"], run["reason"]) == (121, "artifact-save")
    assert "disk full on /s" in run["reason_text"]
    assert [item["partial"] for item in world.job(name, "prepare")["artifacts"]] == [True]


def test_a_save_that_failed_after_a_failure_keeps_its_code(world: World) -> None:
    from dstack.protocol import messages

    runner = world.runner()
    name = world.submit(TRAIN, "train")
    world.place()
    runner.take()
    runner.exit("prepare", 3)
    runner.report(messages.SaveRefused(attempt_id=runner.id_of("prepare"), at=runner.now(), detail="disk full"))
    run = world.run(name)
    assert (run["exit_code"], run["reason"]) == (3, "exit-code")
    assert "artifacts incomplete" in world.job(name, "prepare")["reason_text"]


def test_a_later_event_implies_the_earlier(world: World) -> None:
    runner = world.runner()
    name = world.submit(TRAIN, "prepare")
    world.place()
    runner.poll()
    exited = runner.exited("prepare", 0)
    assert runner.report(runner.saved("prepare", exited=exited)).outcome == "applied"
    job = world.job(name)
    assert job["status"] == "done"
    assert job["started_at"] is not None
    assert job["finished_at"] >= job["started_at"]
    assert [item["path"] for item in job["artifacts"]] == ["data"]


def test_environment_and_variables_reach_the_runner(world: World) -> None:
    runner = world.runner()
    text = "workflows:\n  - {name: train, provider: bash, commands: ['run ${{ epochs }}']}\n"
    name = world.submit(text, "train", "--epochs", "20", variables="variables:\n  train:\n    epochs: 3\n")
    world.place()
    (assignment,) = runner.poll().assign
    assert assignment.spec.commands == ("run 20",)
    environment = {**assignment.environment, **assignment.spec.environment}
    assert environment["EPOCHS"] == "20"
    assert environment["DSTACK_RUN_NAME"] == name
    assert environment["DSTACK_ATTEMPT"] == "1"
    assert environment["PYTHONUNBUFFERED"] == "1"
    assert world.run(name)["variables"] == {"epochs": 20}


def test_a_run_of_one_step_more_needs_no_runner_to_be_stored(world: World) -> None:
    name = world.submit(TRAIN, "train")
    assert world.place() == 0
    assert world.run(name)["status"] == "queued"
