"""Runs that follow an earlier one, on both databases: what they reuse, and what runs again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from threading import Thread
from typing import Any

import pytest
from sqlalchemy import delete as delete_rows

from dstack.server.db.engine import declare_write
from dstack.server.db.tables import artifacts as artifacts_table
from dstack.server.db.tables import packs
from dstack.server.db.tables import runs as runs_table
from dstack.server.services import carry, explain, lineage, plans, resume, tags
from dstack.server.services.delete import delete
from dstack.server.services.resume import Wish
from tests.support.resuming import (
    CHAIN,
    VARIABLES,
    assigned,
    begins,
    failed_chain,
    restarted,
    resumed,
    saved_by,
)
from tests.support.world import World


def test_what_is_done_is_reused_and_the_rest_runs(world: World) -> None:
    runner = world.runner()
    old = failed_chain(world, runner)
    before = saved_by(world, old)

    new = resumed(world, old)

    assert world.run(old)["status"] == "failed", "a finished run is never opened again"
    assert world.states(new) == {"prepare": "done", "train": "queued", "report": "waiting"}
    prepare = world.job(new, "prepare")
    assert (prepare["reason"], prepare["reused_run"], prepare["status_text"]) == ("reused", old, "Reused")
    assert prepare["reused_from"] == world.job(old, "prepare")["id"]
    assert world.run(new)["resumed_from"] == old
    train = assigned(world, runner)["train"]
    assert [(item.path, item.manifest_id) for item in train.inputs] == [("data", before["prepare"])]
    assert begins(train) == {"model": before["train"]}
    assert (train.environment["DSTACK_RESUMED"], train.environment["DSTACK_RESUMED_FROM"]) == ("1", old)
    runner.run("train")
    assert world.complete(runner) == ["report"]
    run = world.run(new)
    assert (run["status"], run["exit_code"]) == ("done", 0)
    assert saved_by(world, new)["prepare"] == before["prepare"]
    assert saved_by(world, new)["train"] != before["train"]
    world.check_events()


def test_through_several_resumes(world: World) -> None:
    """The second one fails before it starts: the third begins where the first had come to."""
    runner = world.runner()
    first = failed_chain(world, runner)
    before = saved_by(world, first)
    second = resumed(world, first)
    world.stop(second)
    third = resumed(world, second)
    assert world.job(third, "prepare")["reused_run"] == first, "where it ran"
    delete(world.context, [first, second], force=False, actor=None)
    assert world.run(third)["resumed_from"] == "deleted"
    train = assigned(world, runner)["train"]
    assert begins(train) == {"model": before["train"]}
    assert train.environment["DSTACK_RESUMED_FROM"] == second
    assert [item.manifest_id for item in train.inputs] == [before["prepare"]], "though the run that made it is gone"
    assert saved_by(world, third) == {"prepare": before["prepare"], "train": before["train"]}


def test_restart_of_a_job_and_what_comes_after_it(world: World) -> None:
    runner = world.runner()
    old = world.submit(CHAIN, "report", variables=VARIABLES)
    world.complete(runner)
    before = saved_by(world, old)
    new = restarted(world, old, "train")
    assert world.states(new) == {"prepare": "done", "train": "queued", "report": "waiting"}
    assert begins(assigned(world, runner)["train"]) == {"model": before["train"]}
    runner.run("train")
    assert begins(assigned(world, runner)["report"]) == {"page": before["report"]}


def test_restart_of_everything(world: World) -> None:
    runner = world.runner()
    old = world.submit(CHAIN, "report", variables=VARIABLES)
    world.complete(runner)
    new = restarted(world, old)
    assert world.states(new) == {"prepare": "queued", "train": "waiting", "report": "waiting"}
    assert world.complete(runner) == ["prepare", "train", "report"]


def test_what_follows_a_job_that_runs_again_runs_again(world: World) -> None:
    """`always()` lets a step be done though the one before it failed: it has told of that failure."""
    runner = world.runner()
    text = CHAIN.replace("depends-on: [train]", 'depends-on: [train], if: "always()"')
    old = world.submit(text, "report", variables=VARIABLES)
    world.complete(runner, codes={"train": 1})
    assert world.states(old)["report"] == "done"
    new = resumed(world, old)
    assert world.states(new) == {"prepare": "done", "train": "queued", "report": "waiting"}


def test_nothing_of_the_earlier_run_is_decoded_while_others_wait_to_write(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of ten thousand jobs, or with megabytes of files, would hold up the whole server."""
    old = failed_chain(world, world.runner())
    writing: list[bool] = []
    decoded: list[tuple[str, bool]] = []

    def spied(name: str, plain: Callable[[bytes], object], data: bytes) -> object:
        decoded.append((name, bool(writing)))
        return plain(data)

    decoders = ("_decode_spec", "_decode_plan", "_decode_submission")
    for name in decoders:
        monkeypatch.setattr(carry, name, partial(spied, name, getattr(carry, name)))
    plain_write = world.context.database.write

    def write(*given: Any) -> Any:
        writing.append(True)
        try:
            return plain_write(*given)
        finally:
            writing.pop()

    monkeypatch.setattr(world.context.database, "write", write)
    resumed(world, old)
    assert {name for name, _ in decoded} == set(decoders)
    assert not any(inside for _, inside in decoded)


def test_a_job_whose_artifacts_are_gone_runs_again(world: World) -> None:
    runner = world.runner()
    old = failed_chain(world, runner)
    job_id = world.job_row(old, "prepare").id
    world.context.database.write(
        declare_write("runs.submit"),
        lambda tx: tx.execute(delete_rows(artifacts_table).where(artifacts_table.c.job_id == job_id)),
    )
    assert world.states(resumed(world, old))["prepare"] == "queued"


def test_what_is_taken_over_counts_as_asked_about(make_world: Callable[..., World]) -> None:
    world = make_world(gc_asked_to=10.0)
    runner = world.runner()
    old = failed_chain(world, runner)
    before = set(saved_by(world, old).values())
    world.clock.advance(60)
    resumed(world, old)
    asked = {row.pack_id: row.asked_at for row in world.rows(packs)}
    assert {asked[manifest_id] for manifest_id in before} == {world.clock.now()}


def test_a_key_makes_one_run_and_two_requests_make_two(world: World) -> None:
    runner = world.runner()
    old = failed_chain(world, runner)
    first = resume.submit(world.context, old, Wish(), "key")
    again = resume.submit(world.context, old, Wish(), "key")
    assert (first.new, again.new, again.name) == (True, False, first.name)
    made: list[str] = []
    both = [Thread(target=lambda: made.append(resume.submit(world.context, old, Wish(), None).name)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert len({first.name, *made}) == 3
    for name in made:
        assert world.states(name)["prepare"] == "done"


def test_tags_are_set_once_it_is_done(world: World) -> None:
    runner = world.runner()
    old = failed_chain(world, runner, tags=("v1",))
    new = resumed(world, old, tags=("v2",))
    world.complete(runner)
    assert world.run(new)["tags"] == ["v1", "v2"]
    found = world.read(lambda tx: tags.listing(tx, world.context.project_id, name="v1"))
    assert {(row["workflow"], row["run"]) for row in found} == {(name, new) for name in ("prepare", "train", "report")}
    again = restarted(world, new)
    world.complete(runner)
    assert world.run(again)["tags"] == [], "a run that had its tags keeps them"


def test_what_is_reused_is_not_newer_than_what_was_made_since(world: World) -> None:
    runner = world.runner()
    old = failed_chain(world, runner)
    since = world.submit(CHAIN, "prepare", variables=VARIABLES)
    world.complete(runner)
    new = resumed(world, old)
    world.complete(runner)

    def newest() -> str:
        found = world.read(lambda tx: tags.newest_done(tx, world.context.project_id, repository_id, "prepare"))
        return found[0].run_name

    repository_id = world.rows(runs_table, name=new)[0].repository_id
    assert newest() == since
    delete(world.context, [since, old], force=False, actor=None)
    assert newest() == new, "only here it is left"


def test_the_plan_says_what_is_reused_and_where_jobs_begin(world: World) -> None:
    runner = world.runner()
    old = failed_chain(world, runner)
    found = resume.plan(world.context, old, Wish())
    view = plans.view(found.plan, None, found.code, found.carried)
    told = {step["name"]: step for step in view["steps"]}
    assert {name: step["action"] for name, step in told.items()} == {
        "prepare": "reuse", "train": "run", "report": "run",
    }  # fmt: skip
    assert (told["prepare"]["from"], told["prepare"]["reused"]) == (old, [{"job": "prepare", "from": old}])
    (begin,) = told["train"]["begins"]
    assert (begin["job"], begin["path"], begin["from"], begin["attempt"]) == ("train", "model", old, 1)
    assert told["report"]["begins"] == []
    assert len(world.rows(runs_table)) == 1


def test_explained_and_followed_back(world: World) -> None:
    runner = world.runner()
    old = failed_chain(world, runner)
    new = resumed(world, old)
    world.complete(runner)
    lines = world.read(lambda tx: explain.explain(tx, world.context, new)).lines
    assert f"{new} follows {old}; of that it reuses prepare" in lines
    found = world.read(lambda tx: lineage.of_run(tx, world.context.project_id, new))
    assert {(link["how"], link["source"], link["step"], link["path"]) for link in found.links} == {
        ("reused", old, "prepare", "data"),
        ("begins", old, "train", "model"),
    }
    back = world.read(lambda tx: lineage.of_run(tx, world.context.project_id, old))
    assert {(link["direction"], link["run"]) for link in back.links} == {("use", new)}


@pytest.mark.parametrize("seed", [1, 3])
def test_graphs_of_any_form(world: World, seed: int) -> None:
    """Whatever fails: the run that follows reuses exactly what is done, and runs the rest once, after what it needs."""
    choose = Random(seed)
    needs = {
        f"s{at}": sorted(choose.sample([f"s{i}" for i in range(at)], min(at, choose.randint(0, 3)))) for at in range(9)
    }
    needs["last"] = sorted(needs)
    text = "workflows:\n" + "".join(
        f"  - {{name: {name}, provider: bash, commands: ['true'], artifacts: [{name}], depends-on: {of}}}\n"
        for name, of in needs.items()
    )
    runner = world.runner(slots=3)
    name = world.submit(text, "last")
    world.complete(runner, codes={f"s{at}": 1 for at in range(9) if choose.random() < 0.3})
    before, saved = world.states(name), saved_by(world, name)
    done = {job for job, state in before.items() if state == "done"}
    if done == needs.keys():
        return
    new = resumed(world, name)
    assert {job for job, state in world.states(new).items() if state == "done"} == done
    ended = world.complete(runner)
    assert sorted(ended) == sorted(needs.keys() - done)
    for job in ended:
        assert set(needs[job]) - done <= set(ended[: ended.index(job)])
    assert set(world.states(new).values()) == {"done"}
    assert {job: item for job, item in saved_by(world, new).items() if job in done} == {job: saved[job] for job in done}
    world.check_events()
