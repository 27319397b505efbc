"""What a run that follows another is given anew: variables, words, code, definitions and values of the caller."""

from __future__ import annotations

import pytest

from dstack.sdk.provider import CALLERS
from dstack.server.db.tables import runs as runs_table
from dstack.server.services import resume
from dstack.server.services.errors import BadRequest, Conflict
from dstack.server.services.repositories import RepositoryRef
from dstack.server.services.resume import Changes, Wish
from dstack.server.services.runs import CodeRef, PythonRef
from dstack.workflows import Invalid
from tests.support.resuming import CHAIN, VARIABLES, assigned, begins, failed_chain, restarted, resumed
from tests.support.world import CODE, REPOSITORY, World


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
        ("nothing=1", "variables: title, prepare.seed"),
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


def test_a_variable_of_many_jobs_is_warned_of_once(world: World) -> None:
    names = [f"w{number:02}" for number in range(12)]
    lines = [f"  - {{name: {name}, provider: bash, commands: [x], artifacts: [{name}]}}\n" for name in names]
    lines += [
        f"  - {{name: eval, provider: bash, commands: ['x ${{{{ seed }}}}'], artifacts: [e], depends-on: {names}}}\n",
        "  - {name: last, provider: bash, commands: [x], depends-on: [eval]}\n",
    ]
    old = world.submit(f"workflows:\n{''.join(lines)}", "last", variables="variables: {global: {seed: 1}}\n")
    world.complete(world.runner(), codes={"last": 1})
    found = resume.submit(world.context, old, Wish(set=("global.seed=2",)), None).warnings
    shown = "`w00`, `w01`, `w02`, `w03`, `w04` and 7 more"
    assert [warning.message for warning in found] == [
        f"`eval` is reused from {old} although its definition changed: commands, environment (SEED)",
        f"{shown} are reused from {old} although their definitions changed: environment (SEED)",
    ]
    assert found[1].hint == f"run one again, and what follows it, with: dstack restart {old} w00"


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
    assert runner.secrets("train").values == {f"{CALLERS}TOKEN_OF_MINE": "second"}


def test_values_that_only_reused_jobs_had_are_not_missed(world: World) -> None:
    runner = world.runner()
    text = CHAIN.replace("artifacts: [data]", "artifacts: [data], env: [TOKEN_OF_MINE]")
    old = world.submit(text, "report", variables=VARIABLES, values={"TOKEN_OF_MINE": "first"})
    world.complete(runner, codes={"train": 1})
    new = resumed(world, old)
    assert world.states(new)["prepare"] == "done"
    with pytest.raises(BadRequest, match="not set in your shell"):
        restarted(world, old)
