"""What keeps a job from saving, from its runner's poll to everybody who looks (F19)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dstack.server.db.engine import Transaction
from dstack.server.db.errors import DatabaseFull
from dstack.server.services import following, views, waiting
from dstack.server.services.explain import explain
from dstack.server.services.problems import TELL
from tests.support.following import Reader
from tests.support.runner import FakeRunner
from tests.support.world import World

ONE = """
workflows:
  - {name: train, provider: bash, artifacts: [out], commands: ["true"]}
"""
FULL = "takes no snapshots now: disk full on /disk/store"


def begun(world: World) -> tuple[FakeRunner, str]:
    runner = world.runner()
    name = world.submit(ONE, "train")
    world.place()
    runner.take()
    return runner, name


def tell(runner: FakeRunner, text: str) -> None:
    runner.problems = dict.fromkeys(runner.held, text)
    runner.poll()


def shown(world: World, name: str) -> str | None:
    """As `dstack runs NAME` has it."""

    def read(tx: Transaction) -> Any:
        context = world.context
        return views.run_view(
            tx,
            context.project_id,
            name,
            lambda run_id: waiting.whys(tx, context.project_id, run_id, context.settings, context.problems),
        )

    [job] = world.read(read)["jobs"]
    return job["why_waiting"]


def test_it_is_told_while_it_lasts(world: World) -> None:
    runner, name = begun(world)
    assert shown(world, name) is None
    tell(runner, FULL)
    assert shown(world, name) == FULL
    assert world.read(lambda tx: explain(tx, world.context, name)).waiting == [{"job": "train", "why": FULL}]
    tell(runner, "")
    assert shown(world, name) is None
    tell(runner, FULL)
    runner.finish("train")
    assert shown(world, name) is None, "what is over waits for nothing"


def test_another_server_knows_it_too(world: World) -> None:
    runner, name = begun(world)
    tell(runner, FULL)
    assert world.context.problems == {}, "it is stored"
    runner.register()
    assert shown(world, name) == FULL


def test_a_database_on_the_same_full_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes nothing, and the reason is shown all the same; once it takes something, it is stored."""
    runner, name = begun(world)
    write = world.context.database.write

    def refuse(name: str, work: Any) -> Any:
        if name == TELL:
            raise DatabaseFull("no room")
        return write(name, work)

    with monkeypatch.context() as patch:
        patch.setattr(world.context.database, "write", refuse)
        tell(runner, FULL)
        assert shown(world, name) == FULL
        tell(runner, "")
        assert shown(world, name) is None
        tell(runner, FULL)
    tell(runner, "finishing: " + FULL)
    assert (world.context.problems, shown(world, name)) == ({}, "finishing: " + FULL)


def test_who_follows_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a job that prints without a pause."""
    monkeypatch.setattr(following, "QUIET", 60.0)
    monkeypatch.setattr(following, "BEAT", 60.0)

    async def scene() -> None:
        runner, name = begun(world)
        reader = Reader(world, name)
        await reader.open()
        await reader.until(lambda: "running" in reader.statuses("train"))
        tell(runner, FULL)
        await reader.until(lambda: FULL in [head["why_waiting"] for head in reader.of("job")])
        tell(runner, "")
        await reader.until(lambda: reader.of("job")[-1]["why_waiting"] is None)
        runner.finish("train")
        await reader.to_end()

    asyncio.run(scene())
