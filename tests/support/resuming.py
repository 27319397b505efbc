"""Runs to go on from: a chain of three whose middle failed, and what the run that follows it is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import delete

from dstack.protocol.messages import Assignment
from dstack.server.db.engine import declare_write
from dstack.server.db.tables import chunks
from dstack.server.db.tables import runs as runs_table
from dstack.server.services import artifacts, resume
from dstack.server.services.errors import ServiceError
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


def refused(world: World, old: str, **wish: Any) -> ServiceError:
    """What a plan and a submission say alike; nothing is stored."""
    before = len(world.rows(runs_table))
    told: list[ServiceError] = []
    for ask in (lambda w: resume.plan(world.context, old, w), lambda w: resume.submit(world.context, old, w, None)):
        with pytest.raises(ServiceError) as error:
            ask(Wish(**wish))
        told.append(error.value)
    assert (told[0].message, told[0].hint) == (told[1].message, told[1].hint)
    assert len(world.rows(runs_table)) == before
    return told[0]


def warned(world: World, old: str, **wish: Any) -> tuple[str, list[str]]:
    """The new run, and the messages of its warnings."""
    made = resume.submit(world.context, old, Wish(**wish), None)
    return made.name, [warning.message for warning in made.warnings]


def killed_after(
    world: World, runner: FakeRunner, *contents: str, last: str = "the last", code: int = 1, run: str | None = None
) -> str:
    """A run of `prepare` (or `run`) that saved these, a second apart and `last` when it ended."""
    old = run or world.submit(CHAIN, "prepare", variables=VARIABLES)
    _attempt(world, runner, contents, last, code)
    assert world.states(old) == {"prepare": "failed" if code else "done"}
    return old


def retried_after(world: World, runner: FakeRunner, *contents: str, last: str, submit: bool = True) -> None:
    """The same of one that is tried again by itself, which it is about to be."""
    if submit:
        text = CHAIN.replace("artifacts: [data]", "artifacts: [data], retry: {max: 5, on: [exit-code]}")
        world.submit(text, "prepare", variables=VARIABLES)
    _attempt(world, runner, contents, last, 1)
    world.clock.advance(5)
    world.sweep()


def _attempt(world: World, runner: FakeRunner, contents: Sequence[str], last: str, code: int) -> None:
    world.place()
    runner.poll()
    job = runner.id_of("prepare")
    runner.accept(job)
    runner.start(job)
    for content in contents:
        world.clock.advance(1)
        runner.report(runner.snapshot(job, {"data": content}))
    world.clock.advance(1)
    runner.exit(job, code)
    runner.save(job, {"data": last})
    runner.forget(job)


def manifest(content: str) -> bytes:
    """Of the snapshot of a folder that holds this."""
    return FakeRunner.artifacts({"x": content})[0].manifest_id
