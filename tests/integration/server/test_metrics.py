"""Metrics in the server: reported by runners, found in logs, shown as series, compared between runs."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dstack.protocol import messages
from dstack.server.services import compare, metrics
from dstack.server.services.errors import NotFound
from tests.support.runner import FakeRunner
from tests.support.world import World

FILES = """
workflows:
  - {name: train, provider: bash, commands: ["true"]}
"""


def begun(world: World) -> tuple[str, FakeRunner]:
    """A run whose job has started."""
    runner = world.runner()
    name = world.submit(FILES, "train")
    world.place()
    runner.poll()
    runner.accept("train")
    runner.start("train")
    return name, runner


def point(offset: int, name: str, step: int | None, value: float) -> messages.MetricPoint:
    return messages.MetricPoint(offset * 4, name, step, 1_000 + offset, value)


def report(runner: FakeRunner, *points: messages.MetricPoint) -> messages.EventAnswer:
    return runner.report(messages.MetricsLogged(attempt_id=runner.id_of("train"), at=runner.now(), points=points))


def series(world: World, run: str, points: int = 100, **of: Any) -> list[dict[str, Any]]:
    return metrics.series(world.context, run, job=of.get("job"), name=of.get("name"), points=points)


def test_points_are_stored_once_however_often_they_are_reported(world: World) -> None:
    name, runner = begun(world)
    points = [point(at, "loss", at, 1.0 / (at + 1)) for at in range(5)]
    assert report(runner, *points[:3]).outcome == "applied"
    assert report(runner, *points).outcome == "applied"
    [found] = series(world, name)
    assert (found["name"], found["count"], found["last"], found["last_step"]) == ("loss", 5, 0.2, 4)
    assert (found["min"], found["max"]) == (0.2, 1.0)
    assert [step for step, _, _ in found["points"]] == [0, 1, 2, 3, 4]


def test_what_is_not_finite_survives_the_database(world: World) -> None:
    name, runner = begun(world)
    report(runner, point(1, "loss", 1, 2.0), point(2, "loss", 2, math.inf), point(3, "loss", 3, math.nan))
    [found] = series(world, name)
    assert (found["count"], found["last"], found["max"]) == (3, None, "Infinity")
    assert [value for _, _, value in found["points"]] == [2.0, "Infinity", None]


def test_a_long_series_is_thinned_and_keeps_its_last_value(world: World) -> None:
    name, runner = begun(world)
    report(runner, *(point(at, "loss", at, float(at)) for at in range(1, 1001)))
    [found] = series(world, name, points=10)
    assert (found["count"], len(found["points"]), found["points"][-1][2]) == (1000, 10, 1000.0)
    assert series(world, name, points=0)[0]["points"] == []


def test_lines_of_json_in_the_log_are_metrics(world: World) -> None:
    name, runner = begun(world)
    runner.log("train", b'starting\n{"epoch": 1, "loss": 0.5}\nhello {"loss": 9}\n{"epoch": 2, "loss": 0.2')
    assert [(item["count"], item["last"]) for item in series(world, name)] == [(1, 0.5)]
    runner.log("train", b'5}\n{"level": "info", "line": 3}\n{"epoch": 3, "loss": 0.1}')
    assert [(item["count"], item["last"]) for item in series(world, name)] == [(2, 0.25)]
    runner.exit("train")
    runner.save("train")
    # Its last line has no end, and none will come.
    [found] = series(world, name)
    assert [(step, value) for step, _, value in found["points"]] == [(1, 0.5), (2, 0.25), (3, 0.1)]


def test_a_log_is_read_on_from_where_it_was_read_to(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    name, runner = begun(world)
    monkeypatch.setattr(metrics, "PAGE", 64)
    runner.log("train", b"".join(b'{"step": %d, "loss": %d}\n' % (at, at) for at in range(50)) + b"x" * 200)
    assert series(world, name)[0]["count"] == 50
    runner.log("train", b'\n{"step": 50, "loss": 50}\n')
    assert series(world, name)[0]["count"] == 51


def test_metrics_of_one_job_or_name(world: World) -> None:
    name, runner = begun(world)
    report(runner, point(1, "loss", 1, 1.0), point(1, "acc", 1, 0.5))
    assert [item["name"] for item in series(world, name)] == ["acc", "loss"]
    assert [item["name"] for item in series(world, name, name="acc")] == ["acc"]
    assert series(world, name, job="other") == []
    with pytest.raises(NotFound):
        series(world, "no-such-run-1")


def test_an_attempt_has_room_for_so_many(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    name, runner = begun(world)
    monkeypatch.setattr(metrics, "MAX_POINTS", 3)
    report(runner, *(point(at, "loss", at, 1.0) for at in range(5)))
    assert series(world, name)[0]["count"] == 3


def test_runs_are_compared_by_what_they_reused(world: World) -> None:
    files = """
workflows:
  - {name: prepare, provider: bash, commands: ["true"], artifacts: [data, same]}
  - {name: evaluate, provider: bash, commands: ["true"], depends-on: ["prepare:latest"]}
"""
    runner = world.runner(slots=4)
    prepared: list[str] = []
    names: list[str] = []
    for content in "ab":
        world.clock.advance(1)
        prepared.append(world.submit(files, "prepare"))
        world.place()
        runner.poll()
        runner.run("prepare", 0, {"data": content, "same": "1"})
        names.append(world.submit(files, "evaluate"))
    assert compare.compare(world.context, names)["inputs"] == [
        {"step": "evaluate", "path": "data", "values": prepared}
    ]  # fmt: skip


def test_runs_are_compared(world: World) -> None:
    variables = "variables:\n  train: {lr: 0.1, seed: 2}\n"
    names: list[str] = []
    runner = world.runner(slots=2)
    for number, args in enumerate(((), ("--lr", "0.5"))):
        name = world.submit(FILES, "train", *args, variables=variables)
        world.place()
        runner.poll()
        [job] = runner.take_ids()
        event = messages.MetricsLogged(attempt_id=job, at=runner.now(), points=(point(1, "loss", 1, float(number)),))
        runner.report(event)
        names.append(name)
    found = compare.compare(world.context, names)
    assert [run["name"] for run in found["runs"]] == names
    assert found["variables"] == [{"step": "train", "name": "lr", "values": [0.1, 0.5]}]
    [loss] = found["metrics"]
    assert (loss["job"], loss["name"], [value["last"] for value in loss["values"]]) == ("train", "loss", [0.0, 1.0])
