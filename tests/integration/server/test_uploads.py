"""Runs of a person's own files: finished at once, tagged, and given to whoever depends on them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from dstack.server.db.tables import runs
from dstack.server.services import tags, uploads
from dstack.server.services.catalog import DatabaseCatalog
from dstack.server.services.errors import BadRequest, SnapshotMissing
from dstack.server.services.repositories import RepositoryRef
from dstack.server.services.uploads import Upload, UploadedArtifact
from dstack.snapshots.capture import save
from dstack.snapshots.store import SnapshotStore
from tests.support.world import REPOSITORY, World

TRAIN = """
workflows:
  - {name: train, provider: bash, commands: ["true"], deps: ["DEP"]}
"""


def uploading(world: World, folder: Path, content: str = "a", path: str = "data", **more: object) -> Upload:
    folder.mkdir(exist_ok=True)
    (folder / "x").write_text(content)
    store = SnapshotStore(world.context.blobs, DatabaseCatalog(world.context.database, world.context.project_id))
    saved = save(folder, store)
    artifact = UploadedArtifact(path, saved.manifest_id.hex(), saved.stored)
    wanted = Upload((artifact,), RepositoryRef(REPOSITORY, "digits"), user="ada")
    return msgspec.structs.replace(wanted, **more)


def test_a_finished_run_with_its_artifacts_and_tags(world: World, tmp_path: Path) -> None:
    made = uploads.upload(world.context, uploading(world, tmp_path / "up", tags=("v1", "v2")), None)
    run = world.run(made.name)
    assert (made.new, run["status"], run["exit_code"], run["workflow"], sorted(run["tags"])) == (
        True, "done", 0, "upload", ["v1", "v2"],
    )  # fmt: skip
    [job] = run["jobs"]
    assert (job["name"], job["status"], job["reason"], job["reason_text"]) == ("upload", "done", "uploaded", "uploaded")
    [artifact] = job["artifacts"]
    assert (artifact["path"], artifact["files"], artifact["size"], artifact["partial"]) == ("data", 1, 1, False)
    assert run["started_at"] <= run["finished_at"] == world.clock.now()
    world.check_events()


@pytest.mark.parametrize("dep", [":v1", "upload", "upload:v1", "upload:latest"])
def test_a_workflow_depends_on_it(world: World, tmp_path: Path, dep: str) -> None:
    made = uploads.upload(world.context, uploading(world, tmp_path / "up", tags=("v1",)), None)
    runner = world.runner()
    world.submit(TRAIN.replace("DEP", dep), "train")
    world.place()
    [assignment] = runner.poll().assign
    assert [(item.path, item.run_name) for item in assignment.inputs] == [("data", made.name)]


def test_under_the_name_of_a_workflow(world: World, tmp_path: Path) -> None:
    made = uploads.upload(world.context, uploading(world, tmp_path / "up", workflow="prepare", tags=("v1",)), None)
    found = world.read(lambda tx: tags.listing(tx, world.context.project_id))
    assert [(row["workflow"], row["name"], row["run"]) for row in found] == [("prepare", "v1", made.name)]


def test_a_request_that_is_sent_again_is_the_same_run(world: World, tmp_path: Path) -> None:
    wanted = uploading(world, tmp_path / "up")
    first, second = (uploads.upload(world.context, wanted, "key") for _ in range(2))
    assert (first.name, first.new, second.name, second.new) == (first.name, True, first.name, False)
    assert len(world.rows(runs)) == 1


def test_what_is_refused_stores_nothing(world: World, tmp_path: Path) -> None:
    good = uploading(world, tmp_path / "up")
    [artifact] = good.artifacts
    wrong = [
        {"artifacts": ()},
        {"artifacts": (artifact, artifact)},
        {"workflow": "a b"},
        {"tags": ("a b",)},
        *(
            {"artifacts": (UploadedArtifact(path, artifact.manifest_id),)}
            for path in ("/x", "../x", "a/../b", "", "a//b", "a\0")
        ),
        {"artifacts": (UploadedArtifact("x", "00" * 32),)},
        {"artifacts": (UploadedArtifact("x", "nothing"),)},
    ]
    for changed in wrong:
        with pytest.raises((BadRequest, SnapshotMissing)):
            uploads.upload(world.context, msgspec.structs.replace(good, **changed), None)
    assert world.rows(runs) == []
