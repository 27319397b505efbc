"""What runs refer to beside a collection, on both databases: it stays, or who refers to it hears that it has gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete as delete_rows

from dstack.server.db.tables import artifacts, chunks, code_snapshots
from dstack.server.db.tables import runs as runs_table
from dstack.server.services import artifacts as artifact_service
from dstack.server.services import delete, runs
from dstack.server.services.catalog import store_of
from dstack.server.services.doubts import doubt
from dstack.server.services.errors import CodeMissing, Conflict
from dstack.server.services.gc import Wanted, collect
from dstack.server.services.runs import CodeRef
from dstack.snapshots.capture import save
from tests.support.garbage import FORGET, JOB, LATER, gathered, noise, uploaded
from tests.support.world import World


def test_inputs_of_open_runs_stay_though_their_run_has_gone(world: World, tmp_path: Path) -> None:
    uploaded(world, tmp_path / "up", {"file": noise(1)}, workflow="prepare", tags=("v1",))
    world.runner()
    world.submit(JOB.replace("DEP", "prepare:v1"), "train")
    world.context.database.write(FORGET, lambda tx: tx.execute(delete_rows(artifacts)))
    world.clock.advance(LATER)
    assert gathered(world)["chunks"] == 0


def test_inputs_that_go_while_a_run_is_planned_are_named(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = uploaded(world, tmp_path / "up", {"file": noise(1)}, workflow="prepare")
    plain = runs.plan_of

    def plan(*given: Any) -> Any:
        """The moment between planning and storing."""
        planned = plain(*given)
        delete.delete(world.context, [source], force=False, actor=None)
        world.clock.advance(LATER)
        assert gathered(world)["chunks"] == 3
        return planned

    monkeypatch.setattr(runs, "plan_of", plan)
    with pytest.raises(Conflict, match=f"`out`, an input of `train`, was saved by run {source}, and is not in the"):
        world.submit(JOB.replace("DEP", "prepare"), "train")
    assert world.rows(runs_table) == []


def test_inputs_of_a_run_that_was_just_stored_stay_though_marked_before(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their run is deleted between planning and storing, and garbage is collected around that."""
    source = uploaded(world, tmp_path / "up", {"file": noise(1)}, workflow="prepare")
    world.clock.advance(LATER)
    collection: list[Any] = []
    plain = runs.plan_of

    def plan(*given: Any) -> Any:
        """The moment between planning and storing."""
        planned = plain(*given)
        delete.delete(world.context, [source], force=False, actor=None)
        frames = collect(world.context, Wanted(dry_run=False))
        # Marked, and not swept yet.
        for frame in frames:
            if frame.get("what") == "taking out what nothing refers to":
                break
        collection.append(frames)
        return planned

    monkeypatch.setattr(runs, "plan_of", plan)
    world.submit(JOB.replace("DEP", "prepare"), "train")
    assert (list(collection[0])[-1]["chunks"], len(world.rows(chunks))) == (0, 3)


def test_code_stays_with_its_run_and_for_a_while_without(world: World, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "x.py").write_bytes(noise(1))
    found = save(tmp_path / "code", store_of(world.context))
    code = CodeRef(found.manifest_id.hex(), found.content_id.hex(), 1, 1)
    name = world.submit(JOB.replace(', deps: ["DEP"]', ""), "train", code=code)
    world.clock.advance(LATER)
    assert gathered(world)["chunks"] == 0
    world.stop(name)
    delete.delete(world.context, [name], force=False, actor=None)
    world.clock.advance(LATER)
    assert gathered(world)["chunks"] == 3
    assert len(world.rows(code_snapshots)) == 1


def test_a_submission_whose_code_went_is_told_to_ship_it_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the transaction that stores the run: before, it was still there."""
    monkeypatch.setattr(artifact_service, "require_code", lambda *_: None)
    monkeypatch.setattr(artifact_service, "has_path", lambda *_: True)
    with pytest.raises(CodeMissing, match="is not in the store"):
        world.submit(JOB.replace(', deps: ["DEP"]', ""), "train", code=CodeRef("ab" * 32, "cd" * 32))


def test_a_runner_hears_that_what_it_saved_is_not_there(world: World) -> None:
    runner = world.runner()
    name = world.submit(JOB.replace(', deps: ["DEP"]', ""), "train")
    world.place()
    runner.take()
    runner.exit("train")
    runner.stores = False
    answer = runner.report(runner.saved("train"))
    assert (answer.outcome, answer.save_again, world.states(name)) == ("rejected", True, {"train": "saving"})
    assert "what was saved of out is not in the store" in answer.detail
    runner.stores = True
    assert runner.save("train").outcome == "applied"
    assert world.states(name) == {"train": "done"}


def test_a_runner_hears_that_what_it_saved_names_what_was_taken_out(world: World) -> None:
    """It saved beside a repair: live snapshots and the last one are taken again."""
    runner = world.runner()
    name = world.submit(JOB.replace(', deps: ["DEP"]', ""), "train")
    world.place()
    runner.take()
    runner.start("train")
    live = runner.snapshot("train", {"out": "live"})
    runner.exit("train")
    last = runner.saved("train")
    roots = [item.manifest_id for event in (live, last) for item in event.artifacts]
    runner.report(live)
    world.context.database.write(FORGET, lambda tx: doubt(tx, world.context.project_id, roots))
    runner.stores = False
    assert [(each.outcome, each.save_again) for each in runner.report_all(live, last)] == [("rejected", True)] * 2
    assert world.states(name) == {"train": "saving"}
    runner.stores = True
    assert runner.report(last).outcome == "applied", "all of it was stored again"
