"""Runs that follow an earlier one: what they reuse, what starts again and from which snapshot, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from threading import Thread
from typing import Any

import msgspec
import pytest

from dstack.protocol.messages import Assignment
from dstack.server.db.engine import declare_write
from dstack.server.db.tables import chunks, packs
from dstack.server.db.tables import jobs as jobs_table
from dstack.server.db.tables import runs as runs_table
from dstack.server.services import artifacts, explain, lineage, plans, resume, run_names, run_values, tags
from dstack.server.services.delete import delete
from dstack.server.services.errors import BadRequest, Conflict, NotFound, NothingToDo
from dstack.server.services.repositories import RepositoryRef
from dstack.server.services.resume import Changes, Wish
from dstack.server.services.runs import PythonRef
from dstack.workflows import Invalid
from tests.support.runner import FakeRunner
from tests.support.world import CODE, REPOSITORY, World

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


def test_a_first_attempt_of_a_plain_run_begins_from_nothing(world: World) -> None:
    runner = world.runner()
    world.submit(CHAIN, "report", variables=VARIABLES)
    prepare = assigned(world, runner)["prepare"]
    assert prepare.resumed == ()
    assert "DSTACK_RESUMED" not in prepare.environment


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


@pytest.mark.parametrize("job", [None, "train"])
def test_fresh_begins_from_nothing(world: World, job: str | None) -> None:
    runner = world.runner()
    old = failed_chain(world, runner)
    new = restarted(world, old, job, fresh=True)
    first = next(iter(assigned(world, runner).values()))
    assert (first.run_name, first.resumed) == (new, ())
    assert "DSTACK_RESUMED" not in first.environment


def test_the_newest_snapshot_of_the_newest_attempt_that_has_one(world: World) -> None:
    """Live snapshots of a killed attempt count; an attempt that never started does not."""
    runner = world.runner()
    text = CHAIN.replace('"train"]', '"train"], retry: {max: 5, on: [exit-code, runner-lost]}')
    old = world.submit(text, "train", variables=VARIABLES)
    world.place()
    runner.poll()
    runner.run("prepare")
    world.place()
    runner.poll()
    first = runner.id_of("train")
    for event in (runner.accept, runner.start):
        event(first)
    for number in (1, 2):
        world.clock.advance(1)
        runner.report(runner.snapshot(first, {"model": f"epoch {number}"}))
    world.clock.advance(1)
    runner.exit(first, 1)
    runner.save(first, {"model": "epoch 3"})
    world.clock.advance(5)
    world.sweep()
    again = assigned(world, runner)["train"]
    assert (again.number, begins(again)) == (2, {"model": manifest("epoch 3")})
    assert (again.environment["DSTACK_RESUMED_FROM"], again.resumed[0].attempt) == (old, 1)


def manifest(content: str) -> bytes:
    return FakeRunner.artifacts({"x": content})[0].manifest_id


def test_a_retry_after_a_lost_runner_begins_from_its_live_snapshot(make_world: Callable[..., World]) -> None:
    """An attempt that was lost before it started does not hide the one before it."""
    world = make_world(lease=30.0, lost_after_retry=60.0)
    first = world.runner("first", slots=1)
    text = CHAIN.replace('"train"]', '"train"], retry: {max: 5, on: [runner-lost]}')
    world.submit(text, "train", variables=VARIABLES)
    world.place()
    first.poll()
    first.run("prepare")
    world.place()
    first.poll()
    first.accept("train")
    first.start("train")
    first.report(first.snapshot("train", {"model": "epoch 7"}))
    lose(world, first)
    second = world.runner("second", slots=1)
    again = assigned(world, second)["train"]
    assert (again.number, begins(again)) == (2, {"model": manifest("epoch 7")})
    second.accept("train")
    lose(world, second)
    third = world.runner("third", slots=1)
    again = assigned(world, third)["train"]
    assert (again.number, begins(again), again.resumed[0].attempt) == (3, {"model": manifest("epoch 7")}, 1)


def lose(world: World, runner: FakeRunner) -> None:
    """The runner says nothing until it is given up."""
    for _ in range(20):
        world.clock.advance(60)
        world.sweep()
        if all(row.state not in ("starting", "running", "assigned") for row in world.rows(jobs_table)):
            break
    else:
        raise AssertionError("its jobs were never given up")
    world.clock.advance(5)
    world.sweep()


def test_an_empty_folder_is_not_put_back(world: World) -> None:
    runner = world.runner()
    old = world.submit(CHAIN, "prepare", variables=VARIABLES)
    world.place()
    runner.poll()
    runner.accept("prepare")
    runner.start("prepare")
    runner.exit("prepare", 1)
    (empty,) = FakeRunner.artifacts({"data": ""})
    event = runner.saved("prepare", {})
    runner.report(msgspec.structs.replace(event, artifacts=(msgspec.structs.replace(empty, files=0),)))
    runner.forget(runner.id_of("prepare"))
    resumed(world, old)
    assert assigned(world, runner)["prepare"].resumed == ()


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


def test_variables_are_set_and_checked_as_on_the_command_line(world: World) -> None:
    runner = world.runner()
    old = failed_chain(world, runner)
    new = resumed(world, old, set=("title=last",))
    assert world.run(new)["variables"]["title"] == "last"
    with pytest.raises(Invalid) as error:
        restarted(world, old, "prepare", set=("prepare.seed=many",))
    assert "`seed` must be a whole number, not `many`" in error.value.diagnostics[0].message
    for text, hint in (
        ("titel=x", "did you mean `--set title=…`?"),
        ("seed=3", "did you mean `--set prepare.seed=…`?"),
        ("title", "write --set NAME=VALUE"),
    ):
        with pytest.raises(BadRequest) as refused:
            resumed(world, old, set=(text,))
        assert refused.value.hint == hint
    # It stays set in what follows this run.
    assert world.complete(runner, codes={"train": 1})
    assert world.run(resumed(world, new))["variables"]["title"] == "last"


def test_a_run_without_a_file_is_resumed_with_its_words(world: World) -> None:
    runner = world.runner()
    variables = "variables:\n  global: {seed: {default: 1, type: int}}\n"
    words = ("-a", "out", "-m", "train", "--lr", "3")
    old = world.submit(CHAIN, "python", *words, variables=VARIABLES + variables.removeprefix("variables:\n"))
    world.complete(runner, codes={"python": 1})
    resumed(world, old, args=("-e", "TOKEN"), values={"TOKEN": "t"})
    job = assigned(world, runner)["python"]
    assert (job.spec.argv, job.spec.secrets) == (("python", "-m", "train", "--lr", "3"), ("env:TOKEN",))
    assert begins(job).keys() == {"out"}
    runner.run("python", 1)
    with pytest.raises(BadRequest, match="has no variable `lr`"):
        resumed(world, old, set=("lr=4",))


def test_a_reused_job_whose_definition_changed_is_warned_of(world: World) -> None:
    runner = world.runner()
    old = failed_chain(world, runner)
    made = resume.submit(world.context, old, Wish(set=("prepare.seed=2",)), None)
    assert world.states(made.name)["prepare"] == "done"
    (warning,) = made.warnings
    assert warning.message == (
        f"`prepare` is reused from {old} although its definition changed: commands, environment (SEED)"
    )
    assert warning.hint == f"run it again, and what follows it, with: dstack restart {old} prepare"
    # What made it is remembered, not what was said of it since.
    world.complete(runner, codes={"train": 1})
    later = resume.submit(world.context, made.name, Wish(set=("prepare.seed=1",)), None)
    assert later.warnings == ()


def test_the_names_of_runs_are_no_change(world: World) -> None:
    runner = world.runner()
    text = CHAIN.replace('"echo ${{ seed }}"', '"echo ${{ run.name }}"')
    old = world.submit(text, "report", variables=VARIABLES)
    world.complete(runner, codes={"train": 1})
    assert resume.submit(world.context, old, Wish(set=("title=x",)), None).warnings == ()


def changes(world: World, text: str, repository: str = REPOSITORY) -> Changes:
    files = {".dstack/workflows.yaml": text, ".dstack/variables.yaml": VARIABLES}
    return Changes(files=files, repository=RepositoryRef(key=repository, name="digits"))


def test_local_changes_take_the_place_of_what_was_submitted(world: World) -> None:
    runner = world.runner()
    old = failed_chain(world, runner)
    text = CHAIN.replace('["train"]', '["train --better"]')
    wish = Wish(changes=changes(world, text), python=PythonRef("/new/python3"), environment={"LANG": "C"})
    made = resume.submit(world.context, old, wish, None)
    assert made.warnings == ()
    train = assigned(world, runner)["train"]
    assert (train.spec.commands, train.python, train.environment["LANG"]) == (("train --better",), "/new/python3", "C")
    other = Changes({}, RepositoryRef("git:example.org/ada/other:.", "other"))
    with pytest.raises(Conflict, match="is of the repository digits, and this one is other"):
        resume.submit(world.context, old, Wish(changes=other), None)


def test_the_code_of_then_runs_again(world: World) -> None:
    from dstack.server.services.runs import CodeRef

    world.know_code()
    runner = world.runner()
    old = failed_chain(world, runner, code=CodeRef(CODE, CODE, 3, 10))
    new = resumed(world, old)
    assert assigned(world, runner)["train"].code == bytes.fromhex(CODE)
    assert resume.plan(world.context, old, Wish()).code == CodeRef(CODE, CODE, 3, 10)
    assert world.rows(runs_table, name=new)[0].code_content_id == bytes.fromhex(CODE)


def test_values_of_the_caller_are_asked_for_again(world: World) -> None:
    runner = world.runner()
    text = CHAIN.replace('["train"]', '["train"], env: [TOKEN_OF_MINE]')
    old = world.submit(text, "report", variables=VARIABLES, values={"TOKEN_OF_MINE": "first"})
    world.complete(runner, codes={"train": 1})
    assert resume.given(world.context, old).values == ["TOKEN_OF_MINE"]
    with pytest.raises(BadRequest, match="not set in your shell: TOKEN_OF_MINE") as error:
        resumed(world, old)
    assert "-e TOKEN_OF_MINE=VALUE" in error.value.hint
    resumed(world, old, values={"TOKEN_OF_MINE": "second"})
    assigned(world, runner)
    assert runner.secrets("train").values == {f"{run_values.CALLERS}TOKEN_OF_MINE": "second"}


def test_values_that_only_reused_jobs_had_are_not_missed(world: World) -> None:
    runner = world.runner()
    text = CHAIN.replace("artifacts: [data]", "artifacts: [data], env: [TOKEN_OF_MINE]")
    old = world.submit(text, "report", variables=VARIABLES, values={"TOKEN_OF_MINE": "first"})
    world.complete(runner, codes={"train": 1})
    new = resumed(world, old)
    assert world.states(new)["prepare"] == "done"
    with pytest.raises(BadRequest, match="not set in your shell"):
        restarted(world, old)


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


PINNED = """
workflows:
  - {name: prepare, provider: bash, commands: ["true"], artifacts: [data]}
  - {name: train, provider: bash, commands: ["true"], artifacts: [model], deps: ["prepare:latest"]}
"""


def test_pinned_inputs_stay_what_they_were(world: World) -> None:
    runner = world.runner()
    first = world.submit(PINNED, "prepare")
    world.complete(runner)
    old = world.submit(PINNED, "train")
    world.complete(runner, codes={"train": 1})
    world.clock.advance(1)
    world.submit(PINNED, "prepare")
    world.complete(runner)
    resumed(world, old)
    (given,) = assigned(world, runner)["train"].inputs
    assert given.run_name == first


def test_a_pinned_input_whose_run_is_gone_is_named(world: World) -> None:
    runner = world.runner()
    first = world.submit(PINNED, "prepare")
    world.complete(runner)
    old = world.submit(PINNED, "train")
    world.complete(runner, codes={"train": 1})
    delete(world.context, [first], force=False, actor=None)
    with pytest.raises(Conflict, match=f"`data`, an input of `train`, came from run {first}, which was deleted"):
        resumed(world, old)


def test_a_pinned_input_whose_run_goes_while_it_is_planned_is_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = world.runner()
    first = world.submit(PINNED, "prepare")
    world.complete(runner)
    old = world.submit(PINNED, "train")
    world.complete(runner, codes={"train": 1})
    plain = run_names.free

    def free(*given: Any) -> str:
        delete(world.context, [first], force=False, actor=None)
        return plain(*given)

    monkeypatch.setattr(run_names, "free", free)
    with pytest.raises(Conflict, match=f"came from run {first}, which was deleted"):
        resumed(world, old)


def test_what_follows_a_job_that_runs_again_runs_again(world: World) -> None:
    """`always()` lets a step be done though the one before it failed: it has told of that failure."""
    runner = world.runner()
    text = CHAIN.replace("depends-on: [train]", 'depends-on: [train], if: "always()"')
    old = world.submit(text, "report", variables=VARIABLES)
    world.complete(runner, codes={"train": 1})
    assert world.states(old)["report"] == "done"
    new = resumed(world, old)
    assert world.states(new) == {"prepare": "done", "train": "queued", "report": "waiting"}


def lose_snapshot(world: World, manifest_id: bytes) -> None:
    """Have the store know it no more, though rows name it."""
    from sqlalchemy import delete as delete_rows

    lost = delete_rows(chunks).where(chunks.c.chunk_id == manifest_id)
    world.context.database.write(LOSE, lambda tx: tx.execute(lost))


def test_a_job_whose_files_are_not_in_the_store_runs_again(world: World) -> None:
    runner = world.runner()
    old = failed_chain(world, runner)
    lose_snapshot(world, saved_by(world, old)["prepare"])
    planned = resume.plan(world.context, old, Wish())
    new = resume.submit(world.context, old, Wish(), None)
    told = f"what prepare of {old} saved in `data` is not in the store any more: it runs without"
    assert [warning.message for warning in planned.carried.warnings] == [told]
    assert [warning.message for warning in new.warnings] == [told]
    assert world.states(new.name) == {"prepare": "queued", "train": "waiting", "report": "waiting"}
    assert "prepare" not in saved_by(world, new.name)


def test_a_job_whose_snapshot_is_not_in_the_store_begins_from_nothing(world: World) -> None:
    runner = world.runner()
    old = failed_chain(world, runner)
    lose_snapshot(world, saved_by(world, old)["train"])
    new = resume.submit(world.context, old, Wish(), None)
    assert ["`model` is not in the store" in warning.message for warning in new.warnings] == [True]
    assert begins(assigned(world, runner)["train"]) == {}


def test_what_is_taken_over_counts_as_asked_about(make_world: Callable[..., World]) -> None:
    world = make_world(gc_asked_to=10.0)
    runner = world.runner()
    old = failed_chain(world, runner)
    before = set(saved_by(world, old).values())
    world.clock.advance(60)
    resumed(world, old)
    asked = {row.pack_id: row.asked_at for row in world.rows(packs)}
    assert {asked[manifest_id] for manifest_id in before} == {world.clock.now()}


def test_a_job_whose_artifacts_are_gone_runs_again(world: World) -> None:
    from sqlalchemy import delete as delete_rows

    from dstack.server.db.engine import declare_write
    from dstack.server.db.tables import artifacts as artifacts_table

    runner = world.runner()
    old = failed_chain(world, runner)
    job_id = world.job_row(old, "prepare").id
    world.context.database.write(
        declare_write("runs.submit"),
        lambda tx: tx.execute(delete_rows(artifacts_table).where(artifacts_table.c.job_id == job_id)),
    )
    assert world.states(resumed(world, old))["prepare"] == "queued"


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


def test_a_run_of_uploads_has_nothing_to_run(world: World) -> None:
    from dstack.server.services import uploads
    from dstack.server.services.catalog import store_of
    from dstack.snapshots.capture import save

    folder = world.settings.home / "up"
    folder.mkdir(parents=True)
    (folder / "x").write_text("x")
    kept = save(folder, store_of(world.context))
    artifact = uploads.UploadedArtifact("data", kept.manifest_id.hex(), kept.stored)
    name = uploads.upload(world.context, uploads.Upload((artifact,), RepositoryRef(REPOSITORY, "digits")), None).name
    with pytest.raises(BadRequest, match="made of uploaded files"):
        restarted(world, name)


@pytest.mark.parametrize("on", ["ada/data/prepare", "ada/data/first"])
def test_pinned_inputs_of_another_repository(world: World, on: str) -> None:
    theirs, ours = "git.example.org/ada/data", "git.example.org/bob/digits"
    runner = world.runner()
    first = world.submit(PINNED, "prepare", repository=theirs, remote=theirs)
    world.complete(runner)
    world.tag(first, "first")
    text = PINNED.replace("prepare:latest", on)
    old = world.submit(text, "train", repository=ours, remote=ours)
    world.complete(runner, codes={"train": 1})
    world.clock.advance(1)
    second = world.submit(PINNED, "prepare", repository=theirs, remote=theirs)
    world.complete(runner)
    world.tag(second, "first")
    resumed(world, old)
    (given,) = assigned(world, runner)["train"].inputs
    assert given.run_name == first


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
