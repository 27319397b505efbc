"""Who locks what on PostgreSQL, and in which order: nobody there waits for one that waits for him.

PostgreSQL ends a deadlock after a while by failing one of the two, whose work is then done again: nothing is lost, but
everybody waits. So these tests count how often a write had to be done again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import select, update

from dstack.server.db.engine import Transaction, declare_write
from dstack.server.db.postgresql import Jitter
from dstack.server.db.tables import packs, runs
from dstack.server.services import place as place_service
from dstack.server.services import runners as runner_service
from dstack.server.services import runs as run_service
from dstack.server.services.removal import remove_condemned
from dstack.server.services.runs import CodeRef
from tests.integration.server.test_runs import independent
from tests.integration.server.test_submission import at_once
from tests.support.runner import FakeRunner
from tests.support.world import CODE, World

CONDEMN = declare_write("test.locks.condemn")
CHAIN = (
    "workflows:\n"
    "  - {name: one, provider: bash, commands: ['true']}\n"
    "  - {name: two, provider: bash, commands: ['true'], depends-on: [one]}\n"
)


@pytest.fixture
def world(emptied_postgresql: str, tmp_path: Path) -> Iterator[World]:
    made = World(emptied_postgresql, tmp_path / "home", place_on_report=True)
    yield made
    made.close()


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tries after which writes had to be done again."""
    tries: list[int] = []
    monkeypatch.setattr(Jitter, "pause", lambda _, tried: tries.append(tried))
    return tries


def waits(url: str) -> bool:
    """Whether a session waits for another's lock."""
    with psycopg.connect(url.replace("postgresql+psycopg", "postgresql"), autocommit=True) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchone()
    return row is not None and row[0] > 0


def started(world: World, runner: FakeRunner) -> dict[tuple[str, str], UUID]:
    """Place what there is, and start it: (run, job) → attempt."""
    world.place()
    runner.poll()
    for key in runner.held:
        runner.accept(key)
        runner.start(key)
    return {(item.run_name, item.job_name): key for key, item in runner.held.items()}


def place_on_report(world: World, on: bool) -> None:
    world.context.settings = replace(world.context.settings, place_on_report=on)


def whole(runner: FakeRunner, key: Any) -> Any:
    return runner.saved(key, {}, runner.exited(key, 0))


def test_a_report_that_places_waits_for_no_run(
    world: World, again: list[int], emptied_postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One report holds the newer run and would place a job of the older; another holds the older and wants both."""
    runner = world.runner(slots=4)
    older, newer = (world.submit(independent(2), "all") for _ in range(2))
    place_on_report(world, on=False)
    world.place()
    runner.poll()
    waiting = next(key for key, item in runner.held.items() if (item.run_name, item.job_name) == (older, "w1"))
    runner.report(runner.recalled(waiting))
    runner.forget(waiting)
    held = {(item.run_name, item.job_name): key for key, item in runner.held.items()}
    for key in runner.held:
        runner.accept(key)
        runner.start(key)
    place_on_report(world, on=True)
    applied, go_on = threading.Event(), threading.Event()
    plain = place_service.find_machines

    def find_machines(*args: Any) -> Any:
        if not applied.is_set():
            applied.set()  # the events of the first report are written, and their run is locked
            assert go_on.wait(30)
        return plain(*args)

    monkeypatch.setattr(place_service, "find_machines", find_machines)
    first = threading.Thread(target=lambda: runner.report(whole(runner, held[newer, "w0"])))
    first.start()
    assert applied.wait(30)
    second = threading.Thread(
        target=lambda: runner.report_all(whole(runner, held[older, "w0"]), whole(runner, held[newer, "w1"]))
    )
    second.start()
    while not waits(emptied_postgresql):
        assert second.is_alive()
    go_on.set()
    first.join()
    second.join()
    assert again == []
    world.check_events()


def test_a_new_process_of_a_runner_and_a_sweep_that_loses_it(
    world: World, again: list[int], emptied_postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one has the runner and wants the runs of what it held; the other may not hold these and want the runner."""
    name = world.submit(CHAIN, "two")
    runner = world.runner(slots=1)
    started(world, runner)
    world.clock.advance(86_400 + 60)
    world.sweep()
    world.clock.advance(86_400)
    taken, go_on = threading.Event(), threading.Event()
    plain = runner_service._give_back  # pyright: ignore[reportPrivateUsage]

    def give_back(*args: Any) -> None:
        taken.set()
        assert go_on.wait(30)
        plain(*args)

    monkeypatch.setattr(runner_service, "_give_back", give_back)
    first = threading.Thread(target=lambda: runner.register(restarted=True, running=[]))
    first.start()
    assert taken.wait(30)
    second = threading.Thread(target=world.sweep)
    second.start()
    second.join(0.2)
    go_on.set()
    first.join()
    second.join()
    assert again == []
    assert world.run(name)["reason"] == "runner-lost"
    world.check_events()


def test_a_submission_that_keeps_files_of_others_and_a_removal_of_blobs(
    world: World, again: list[int], emptied_postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one has rows of packs and wants the blobs kept; the other may not hold these and want the rows."""
    world.know_code()
    world.context.database.write(CONDEMN, lambda tx: tx.execute(update(packs).values(condemned_at=1)))
    taken, go_on = threading.Event(), threading.Event()
    plain = run_service.hold_inputs

    def hold_inputs(tx: Transaction, *args: Any) -> None:
        tx.execute(select(packs.c.pack_id).with_for_update())  # as it does for packs that were not asked about lately
        taken.set()
        assert go_on.wait(30)
        plain(tx, *args)

    monkeypatch.setattr(run_service, "hold_inputs", hold_inputs)
    code = CodeRef(manifest_id=CODE, content_id="cd" * 32)
    first = threading.Thread(target=lambda: world.submit(CHAIN, "two", code=code))
    first.start()
    assert taken.wait(30)
    second = threading.Thread(target=lambda: list(remove_condemned(world.context, world.clock.now())))
    second.start()
    while not waits(emptied_postgresql):
        assert second.is_alive()
    go_on.set()
    first.join()
    second.join()
    assert again == []
    assert len(world.rows(packs)) == len(world.rows(runs)) == 1


def test_reports_placers_sweeps_and_stops_all_at_once(world: World, again: list[int]) -> None:
    found = [world.runner(f"r{number}", slots=4) for number in range(4)]
    names = [world.submit(independent(8), "all") for _ in range(4)] + [world.submit(CHAIN, "two") for _ in range(8)]

    def work(number: int) -> None:
        for turn in range(40):
            if number < 4:
                report_everything(found[number])
            elif number == 4:
                world.sweep()
            elif number == 5:
                world.place()
            elif turn < 3:
                world.stop(names[turn])
            if all(world.run(name)["status"] in ("done", "stopped") for name in names):
                return

    at_once(7, work)
    for _ in range(20):
        for runner in found:
            world.place()
            report_everything(runner)
    assert {world.run(name)["status"] for name in names} <= {"done", "stopped"}
    assert again == []
    world.check_events()


def report_everything(runner: FakeRunner) -> None:
    """What it holds runs to its end, and all of it is told in one report, newest first."""
    runner.poll()
    keys = list(reversed(runner.held))
    if keys:
        runner.report_all(*[whole(runner, key) for key in keys])
    for key in keys:
        runner.forget(key)
