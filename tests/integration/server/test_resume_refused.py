"""Runs that cannot be resumed or restarted, on both databases: the refusal says why and what to do."""

from __future__ import annotations

import pytest

from dstack.server.db.tables import runs as runs_table
from dstack.server.services import resume, uploads
from dstack.server.services.catalog import store_of
from dstack.server.services.errors import BadRequest, Conflict, NotFound, NothingToDo
from dstack.server.services.repositories import RepositoryRef
from dstack.server.services.resume import Wish
from dstack.snapshots.capture import save
from tests.support.resuming import CHAIN, VARIABLES, failed_chain, restarted, resumed
from tests.support.world import REPOSITORY, World


def test_a_run_that_runs_is_refused_and_says_what_to_do(world: World) -> None:
    old = world.submit(CHAIN, "report", variables=VARIABLES)
    for wish in (Wish(), Wish(restart=True)):
        with pytest.raises(Conflict, match=f"run {old} is still queued") as error:
            resume.submit(world.context, old, wish, None)
        assert f"dstack stop {old}" in error.value.hint
    assert len(world.rows(runs_table)) == 1


def test_where_all_is_done_there_is_nothing_to_resume(world: World) -> None:
    runner = world.runner()
    old = world.submit(CHAIN, "report", variables=VARIABLES)
    world.complete(runner)
    with pytest.raises(NothingToDo, match=f"run {old} is done"):
        resumed(world, old)
    assert len(world.rows(runs_table)) == 1


def test_names_that_are_not_there(world: World) -> None:
    runner = world.runner()
    old = failed_chain(world, runner)
    with pytest.raises(NotFound, match="there is no run `nobody`"):
        resumed(world, "nobody")
    with pytest.raises(NotFound, match=f"run {old} has no job `trian`") as error:
        restarted(world, old, "trian")
    assert error.value.hint == "did you mean train?"


def test_a_run_of_uploads_has_nothing_to_run(world: World) -> None:
    folder = world.settings.home / "up"
    folder.mkdir(parents=True)
    (folder / "x").write_text("x")
    kept = save(folder, store_of(world.context))
    artifact = uploads.UploadedArtifact("data", kept.manifest_id.hex(), kept.stored)
    name = uploads.upload(world.context, uploads.Upload((artifact,), RepositoryRef(REPOSITORY, "digits")), None).name
    with pytest.raises(BadRequest, match="made of uploaded files"):
        restarted(world, name)
