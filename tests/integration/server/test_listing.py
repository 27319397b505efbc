"""Lists of runs: pages, filters, and a cost that does not grow with what runs hold."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.dialects import sqlite

from dstack.server.db.upgrade import ensure_schema
from dstack.server.services import artifacts, views
from tests.integration.server.test_runs import TRAIN, independent
from tests.support.world import REPOSITORY, World, counted

ONE = "workflows:\n  - {name: job, provider: bash, commands: ['true'], artifacts: [out]}\n"


def page(world: World, **more: Any) -> tuple[list[dict[str, Any]], UUID | None]:
    query: dict[str, Any] = {"repository_id": None, "active": False, "limit": 100, "cursor": None, **more}
    found, following = world.read(lambda tx: views.run_page(tx, world.context.project_id, **query))
    return found, UUID(hex=following) if following else None


def test_pages_cover_everything_once_though_runs_come_in(world: World) -> None:
    names = [world.submit(ONE, "job") for _ in range(7)]
    first, cursor = page(world, limit=3)
    late = world.submit(ONE, "job")
    second, cursor = page(world, limit=3, cursor=cursor)
    third, end = page(world, limit=3, cursor=cursor)
    assert [run["name"] for run in [*first, *second, *third]] == names[::-1]
    assert end is None
    assert page(world, limit=1)[0][0]["name"] == late


def test_a_page_that_is_exactly_full_has_no_next(world: World) -> None:
    for _ in range(4):
        world.submit(ONE, "job")
    assert page(world, limit=4)[1] is None
    assert page(world, limit=3)[1] is not None


def test_filters(world: World) -> None:
    mine, other = world.submit(ONE, "job"), world.submit(ONE, "job", repository="git:other:.")
    world.stop(other)
    repositories = {run["repository"]: run["name"] for run in page(world)[0]}
    assert repositories == {REPOSITORY: mine, "git:other:.": other}
    assert [run["name"] for run in page(world, active=True)[0]] == [mine]


def test_fifty_runs_cost_as_many_statements_as_five(world: World) -> None:
    runner = world.runner(slots=8)
    for number in range(50):
        name = world.submit(TRAIN, "train")
        if number % 3:
            world.complete(runner, codes={"train": number % 2})
        if number % 5 == 0:
            world.stop(name)
    for name in [run["name"] for run in page(world)[0] if run["status"] == "done"][:9]:
        world.tag(name, "good")
    statements: dict[int, list[str]] = {}
    for limit in (5, 50):
        statements[limit] = []
        with counted(statements[limit]):
            found, _ = page(world, limit=limit)
        assert len(found) == limit
    assert len(statements[5]) == len(statements[50]) <= 8
    listed = {run["name"]: run for run in page(world)[0]}
    for name in (found[0]["name"], found[20]["name"], found[49]["name"]):
        assert listed[name] == world.run(name), "a list shows what a look at the run shows"


def test_a_large_run_is_listed_with_some_jobs_and_the_counts_of_all(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "LISTED_JOBS", 10)
    monkeypatch.setattr(views, "PART", 10)
    runner = world.runner(slots=2)
    small = world.submit(TRAIN, "train")
    large = world.submit(independent(40), "all")
    world.complete(runner, codes={"w35": 7})
    found = {run["name"]: run for run in page(world)[0]}
    assert len(found[small]["jobs"]) == found[small]["jobs_total"] == 2
    run = found[large]
    assert (run["jobs_total"], run["job_counts"]) == (41, {"done": 39, "failed": 1, "skipped": 1})
    names = {job["name"] for job in run["jobs"]}
    assert names == {"all", "w0", "w1", "w10", "w11", "w12", "w13", "w14", "w15", "w16", "w35"}
    assert (run["reason_text"], run["exit_code"]) == ("w35 exited with code 7", 7)
    assert len(world.run(large)["jobs"]) == 41


def test_many_large_runs_are_one_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "LISTED_JOBS", 3)
    monkeypatch.setattr(views, "PART", 3)
    for _ in range(30):
        world.submit(independent(5), "all")
    statements: list[str] = []
    with counted(statements):
        found, _ = page(world)
    assert len(statements) <= 10
    assert [len(run["jobs"]) for run in found] == [3] * 30


def test_thousands_of_snapshots_show_as_the_newest(world: World) -> None:
    runner = world.runner()
    name = world.submit(ONE, "job")
    world.place()
    runner.take()
    for number in range(300):
        world.clock.advance(1)
        runner.report(runner.snapshot("job", {"out": f"epoch {number}"}))
    runner.finish("job", 0, {"out": "last"})
    (run,) = page(world)[0]
    (artifact,) = run["jobs"][0]["artifacts"]
    assert (artifact["path"], artifact["partial"], artifact["size"]) == ("out", False, len("last"))
    assert run == world.run(name)


def test_what_a_job_is_given_is_found_without_a_look_at_other_jobs(tmp_path: Path) -> None:
    """A chain in a database of 20,000 jobs took three times as long a hop."""
    url = f"sqlite:///{tmp_path / 'plan.db'}"
    ensure_schema(url)
    statement = artifacts._OF_NEEDS.compile(dialect=sqlite.dialect())  # pyright: ignore[reportPrivateUsage]
    with closing(sqlite3.connect(tmp_path / "plan.db")) as connection:
        names = statement.positiontup or ()
        plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", [b""] * len(names)).fetchall()
    searches = [str(row[-1]) for row in plan if " jobs " in str(row[-1])]
    assert any("ix_jobs_step (project_id=? AND step_id=?)" in search for search in searches)
    assert all("(project_id=?)" not in search for search in searches), searches
