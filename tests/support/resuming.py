"""Runs to go on from: a chain of three whose middle failed, and what the run that follows it is given."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete

from dstack.protocol.messages import Assignment
from dstack.server.db.engine import declare_write
from dstack.server.db.tables import chunks
from dstack.server.services import artifacts, resume
from dstack.server.services.resume import Wish
from tests.support.runner import FakeRunner
from tests.support.world import World

LOSE = declare_write("test-resume-lose")
CHAIN = """
workflows:
  - {name: prepare, provider: bash, commands: ["echo ${{ seed }}"], artifacts: [data]}
  - {name: train, provider: bash, commands: ["train"], artifacts: [model], depends-on: [prepare]}
  - {name: report, provider: bash, commands: ["report"], artifacts: [page], depends-on: [train]}
"""
VARIABLES = """
variables:
  prepare: {seed: {default: 1, type: int}}
  report: {title: none}
"""


def failed_chain(world: World, runner: FakeRunner, **more: Any) -> str:
    """prepare done, train failed after a snapshot, report skipped."""
    name = world.submit(CHAIN, "report", variables=VARIABLES, **more)
    world.complete(runner, codes={"train": 1})
    assert world.states(name) == {"prepare": "done", "train": "failed", "report": "skipped"}
    return name


def resumed(world: World, name: str, key: str | None = None, **wish: Any) -> str:
    world.clock.advance(1)
    return resume.submit(world.context, name, Wish(**wish), key).name


def restarted(world: World, name: str, job: str | None = None, **wish: Any) -> str:
    return resumed(world, name, restart=True, job=job, **wish)


def assigned(world: World, runner: FakeRunner) -> dict[str, Assignment]:
    """What the runner is given now, by name of job."""
    world.place()
    return {item.job_name: item for item in runner.poll().assign}


def saved_by(world: World, name: str) -> dict[str, bytes]:
    """Job → manifest of its only artifact, as everybody sees it."""
    found = world.read(lambda tx: artifacts.of_run(tx, world.context.project_id, name))
    return {item["job"]: item["manifest_id"] for item in found}


def begins(assignment: Assignment) -> dict[str, bytes]:
    return {item.path: item.manifest_id for item in assignment.resumed}


def lose_snapshot(world: World, manifest_id: bytes) -> None:
    """Have the store know it no more, though rows name it."""
    lost = delete(chunks).where(chunks.c.chunk_id == manifest_id)
    world.context.database.write(LOSE, lambda tx: tx.execute(lost))
