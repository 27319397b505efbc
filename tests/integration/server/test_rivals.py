"""Several threads, or several servers, on one database: nothing is placed, counted or ended twice."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from dstack.server.db.tables import attempts, jobs
from dstack.server.loops.sweep import sweep
from dstack.server.services import place as service
from dstack.server.services.place import place
from tests.integration.server.test_runs import TRAIN, independent
from tests.integration.server.test_submission import at_once
from tests.support.runner import FakeRunner
from tests.support.world import World


def test_placers_at_once_give_no_job_twice_and_no_runner_too_much(world: World) -> None:
    for number in range(3):
        world.runner(f"r{number}", slots=2)
    for _ in range(4):
        world.submit(independent(12), "all")
    placed = at_once(6, lambda _: place(world.context))
    assert sum(placed) == 18, "two to run and four to wait, on each of three"
    made = world.rows(attempts)
    assert len({row.job_id for row in made}) == len(made) == 18
    counts = [sum(row.runner_id == runner for row in made) for runner in {row.runner_id for row in made}]
    assert counts == [6, 6, 6]
    world.check_events()


@pytest.mark.parametrize("rival", ["placer", "report"])
def test_who_places_between_the_looks_of_another_placer_gives_nothing_away_twice(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, rival: str
) -> None:
    world = make_world(place_on_report=True)
    busy = world.runner("busy", slots=1)
    world.submit(independent(1), "w0")
    world.place()
    busy.take()
    free = world.runner("free", slots=2)
    world.submit(independent(40), "all")
    plain = service._queued  # pyright: ignore[reportPrivateUsage]
    threads: list[threading.Thread] = []

    def queued(*args: Any) -> list[Any]:
        # The placer has looked for free room by now, and not yet for jobs.
        if not threads:
            threads.append(threading.Thread(target=world.place if rival == "placer" else lambda: busy.exit("w0")))
            threads[0].start()
            threads[0].join(0.5)
        return plain(*args)

    monkeypatch.setattr(service, "_queued", queued)
    world.place()
    threads[0].join()
    world.place()
    held = Counter(row.runner_id for row in world.rows(attempts) if row.state == "assigned")
    assert held == {free.runner_id: 6, busy.runner_id: 3 if rival == "report" else 2}
    world.check_events()


def test_runners_that_report_at_once_end_a_run_once(world: World) -> None:
    found = [world.runner(f"r{number}", slots=1) for number in range(4)]
    name = world.submit(independent(4), "all")
    world.place()
    held = [(runner, job) for runner in found for job in runner.take()]
    assert len(held) == 4
    at_once(4, lambda number: held[number][0].finish(held[number][1]))
    assert world.states(name)["all"] == "queued", "the last of four woke it, whichever it was"
    world.complete(found[0])
    assert world.run(name)["status"] == "done"
    world.check_events()


def test_the_same_report_from_many_threads_is_applied_once(world: World) -> None:
    runner = world.runner()
    name = world.submit(TRAIN, "prepare")
    world.place()
    runner.poll()
    exited = runner.exited("prepare", 0)
    saved = runner.saved("prepare", {"data": "x"}, exited)
    outcomes = [answer.outcome for answer in at_once(5, lambda _: runner.report(saved))]
    assert sorted(outcomes) == ["applied", *["ignored"] * 4]
    assert len(world.job(name)["artifacts"]) == 1
    world.check_events()


def test_a_stop_races_a_report(world: World) -> None:
    runner = world.runner(slots=8)
    names = [world.submit(TRAIN, "prepare") for _ in range(6)]
    world.place()
    runner.poll()
    keys = list(runner.held)

    def work(number: int) -> object:
        if number % 2:
            return world.stop(names[number // 2])
        key = keys[number // 2]
        exited = runner.exited(key, 0)
        return runner.report(runner.saved(key, {"data": "x"}, exited))

    at_once(12, work)
    for name in names:
        assert world.run(name)["status"] in ("done", "stopped")
    assert {row.state for row in world.rows(attempts)} == {"ended"}
    world.check_events()


def test_sweeps_at_once_end_an_attempt_once(world: World) -> None:
    runner = world.runner(slots=8)
    names = [world.submit(TRAIN, "prepare") for _ in range(5)]
    world.place()
    runner.poll()
    world.clock.advance(300)
    at_once(4, lambda _: sweep(world.context))
    assert {row.outcome for row in world.rows(attempts)} == {"returned"}
    assert [world.states(name) for name in names] == [{"prepare": "queued"}] * 5
    assert {row.attempt for row in world.rows(jobs)} == {1}
    world.check_events()


def test_a_whole_day_of_work_by_rivals(world: World) -> None:
    """Placers, sweeps and runners all at once, until everything is done."""
    found = [world.runner(f"r{number}", slots=2) for number in range(3)]
    names = [world.submit(independent(6), "all") for _ in range(3)]

    def work(number: int) -> None:
        for _ in range(60):
            if number < 3:
                _take_and_finish(found[number])
            elif number == 3:
                sweep(world.context)
            else:
                place(world.context)
            if all(world.run(name)["status"] == "done" for name in names):
                return

    at_once(6, work)
    world.complete(*found)
    assert [world.run(name)["status"] for name in names] == ["done"] * 3
    made = world.rows(attempts)
    assert len({row.job_id for row in made}) == len(made) == 21, "each job ran once"
    world.check_events()


def _take_and_finish(runner: FakeRunner) -> None:
    for key in runner.take_ids():
        runner.finish(key)
