"""Why a run waits, or why it failed, in words, for each state."""

from __future__ import annotations

from typing import Any

import msgspec

from dstack.server.db.engine import Transaction
from dstack.server.services import views, waiting
from dstack.server.services.explain import Explanation, explain
from tests.integration.server.test_runs import TRAIN, independent
from tests.support.world import World


def told(world: World, name: str) -> Explanation:
    return world.read(lambda tx: explain(tx, world.context, name))


def page(world: World) -> list[dict[str, Any]]:
    """The runs as the API lists them."""

    def read(tx: Transaction) -> list[dict[str, Any]]:
        project_id = world.context.project_id
        whole: dict[str, Any] = {"repository_id": None, "active": False, "limit": 100, "cursor": None}
        return views.run_page(
            tx, project_id, **whole, why=lambda run_id: waiting.first_why(tx, project_id, run_id, world.settings)
        )[0]

    return world.read(read)


def why(world: World, name: str) -> dict[str, str]:
    return {item["job"]: item["why"] for item in told(world, name).waiting}


def test_waiting_for_a_dependency_and_for_a_runner(world: World) -> None:
    name = world.submit(TRAIN, "train")
    found = told(world, name)
    assert found.summary == f"run {name} is queued (1 queued, 1 waiting)"
    assert why(world, name) == {
        "prepare": "no runner is online; one is started with `dstack runner`",
        "train": "waits for prepare to finish",
    }
    assert (found.root_cause, found.lines) == (None, [])


def test_a_log_that_is_not_whole(world: World) -> None:
    runner = world.runner()
    name = world.submit(TRAIN, "prepare")
    world.place()
    runner.poll()
    saved = runner.saved("prepare", {"data": "x"}, runner.exited("prepare"))
    runner.report(msgspec.structs.replace(saved, log_incomplete=True))
    assert told(world, name).lines == [
        "the log of prepare is not whole: its runner could not send all of it, and its own log says why"
    ]


def test_what_of_the_artifacts_could_not_be_saved(world: World) -> None:
    runner = world.runner()
    name = world.submit(TRAIN, "prepare")
    world.place()
    runner.poll()
    saved = runner.saved("prepare", {"data": "x"}, runner.exited("prepare"))
    runner.report(msgspec.structs.replace(saved, warnings=("data/a: not saved, Permission denied",)))
    assert told(world, name).lines == ["warning: data/a: not saved, Permission denied"]


def test_all_that_is_kept_of_a_job_s_warnings_is_told_and_of_many_jobs_the_first(world: World) -> None:
    """The end of `dstack run` sends people here for what it leaves out."""
    runner = world.runner(slots=23)
    name = world.submit(independent(22), "all")
    world.place()
    runner.poll()
    warnings = tuple(f"data/{number}: not saved, it is a socket" for number in range(300))
    for number in range(22):
        saved = runner.saved(f"w{number}", {}, runner.exited(f"w{number}"))
        runner.report(msgspec.structs.replace(saved, warnings=warnings))
    *lines, more = told(world, name).lines
    assert [line for line in lines if line.startswith("warning: w7: ")] == [
        *(f"warning: w7: {text}" for text in warnings[:20]),
        "warning: w7: and 280 more, which its log names",
    ]
    assert (len(lines), more) == (20 * 21, "warning: and 2 more jobs, whose logs name what was not saved")


def test_a_requirement_that_no_runner_meets(world: World) -> None:
    text = "workflows:\n  - {name: job, provider: bash, commands: ['true'], resources: {memory: 64GiB}}\n"
    name = world.submit(text, "job")
    world.runner(memory=8 << 30)
    assert why(world, name)["job"] == (
        "asked for 1 CPU, 64GiB, which no runner that is online has: 64GiB of memory asked, 8GiB there"
    )


def test_its_place_in_the_queue(world: World) -> None:
    runner = world.runner(slots=1)
    world.submit(independent(5), "all")
    world.clock.advance(1)
    name = world.submit(TRAIN, "prepare")
    world.place()
    runner.take()
    assert why(world, name)["prepare"] == "every runner that fits (1 CPU) is busy; 2 queued before it"


def test_prefetched_behind_which_job(world: World) -> None:
    runner = world.runner(slots=1)
    first, name = world.submit(independent(1), "w0"), world.submit(TRAIN, "prepare")
    world.place()
    assert why(world, name)["prepare"] == "runner north is taking it"
    runner.take()
    assert why(world, name)["prepare"] == f"waits on runner north behind w0 of {first}"
    assert why(world, first) == {}


def test_a_back_off(world: World) -> None:
    runner = world.runner()
    world.runner("south")
    name = world.submit(TRAIN, "prepare")
    world.place()
    runner.poll()
    runner.report(runner.rejected("prepare"))
    assert why(world, name)["prepare"] == "waits 1 s before its next attempt"


def test_rejected_by_all_that_fit(world: World) -> None:
    runner = world.runner()
    name = world.submit(TRAIN, "prepare")
    world.place()
    runner.poll()
    runner.report(runner.rejected("prepare", "disk full on /scratch"))
    world.clock.advance(2)
    assert why(world, name)["prepare"] == (
        "rejected by north (disk full on /scratch), and no other runner fits (1 CPU)"
    )


def test_an_unreachable_runner(world: World) -> None:
    runner = world.runner()
    name = world.submit(TRAIN, "prepare")
    world.place()
    runner.take()
    world.clock.advance(60)
    world.sweep()
    assert any(
        line.startswith("prepare: its runner north has been unreachable since 2023-11-14T22:14:20")
        for line in told(world, name).lines
    )


def test_a_failure_names_its_job_its_end_and_what_it_cost(world: World) -> None:
    runner = world.runner(slots=1)
    name = world.submit(independent(3), "all")
    world.complete(runner, codes={"w1": 137})
    found = told(world, name)
    assert found.summary == f"run {name} failed (2 done, 1 failed, 1 skipped)"
    assert found.root_cause == {
        "job": "w1", "reason": "signal", "exit_code": 137,
        "sentence": "w1 ended by signal 9 (SIGKILL) or exit code 137",
    }  # fmt: skip
    assert found.lines == ["1 skipped because w1 did not succeed"]
    assert found.waiting == []


def test_a_stop_names_who_asked(world: World) -> None:
    name = world.submit(TRAIN, "train")
    world.stop(name, actor="grace")
    found = told(world, name)
    assert found.root_cause is not None
    assert "stopped by grace" in found.root_cause["sentence"]
    assert found.summary == f"run {name} was stopped (2 stopped)"
    assert found.lines == ["train stopped by grace"]


def test_a_run_that_is_asked_to_stop_is_not_said_to_run(world: World) -> None:
    runner = world.runner()
    name = world.submit(TRAIN, "prepare")
    world.place()
    runner.take()
    world.stop(name, actor="grace")
    assert told(world, name).summary == f"run {name} is stopping, as grace asked (1 running)"


def test_a_run_whose_jobs_wait_behind_others_is_queued(world: World) -> None:
    runner = world.runner(slots=1)
    first, name = world.submit(independent(1), "w0"), world.submit(TRAIN, "prepare")
    world.place()
    runner.take()
    assert told(world, name).summary == f"run {name} is queued (1 assigned)"
    run = world.run(name)
    assert (run["status"], run["status_text"], run["job_counts"]) == ("running", "Queued...", {"assigned": 1})
    assert world.run(first)["status_text"] == "Running..."
    listed = {item["name"]: item["why_waiting"] for item in page(world)}
    assert listed == {name: f"waits on runner north behind w0 of {first}", first: None}


def test_a_success_has_nothing_to_explain(world: World) -> None:
    runner = world.runner()
    name = world.submit(TRAIN, "train")
    world.complete(runner)
    found = told(world, name)
    assert (found.lines, found.root_cause, found.waiting) == ([], None, [])


def test_a_large_run_is_told_in_part(world: World) -> None:
    name = world.submit(independent(200), "all")
    found = told(world, name)
    assert len(found.waiting) == 20
    runner = world.runner(slots=2)
    world.complete(runner, codes={f"w{number}": 1 for number in range(100)})
    assert 20 <= len(told(world, name).lines) <= 21


def test_jobs_that_run_are_not_said_to_wait(world: World) -> None:
    runner = world.runner()
    name = world.submit(TRAIN, "prepare")
    world.place()
    runner.poll()
    states: list[Any] = []
    for step in (runner.accept, runner.start, runner.exit):
        step("prepare")
        states.append(why(world, name))
    assert states == [{}, {}, {}]
