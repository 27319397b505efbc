"""The graph of a run: what runs, what is reused, what jobs get."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest

from dstack.sdk.config import WorkflowConfig
from dstack.sdk.provider import JobSpec, PlanContext, PlanError, Provider
from dstack.workflows import Invalid, ReusedInput, load, plan

Make = Callable[..., Any]


def workflow(name: str, *needs: str, deps: str = "", more: str = "") -> str:
    text = f"  - name: {name}\n    provider: bash\n    commands: [true]\n{more}"
    if needs:
        text += "    depends-on:\n" + "".join(f"      - {need}\n" for need in needs)
    return text + (f"    deps: {deps}\n" if deps else "")


def test_a_step_comes_after_what_it_needs_and_once(project: Make) -> None:
    text = "workflows:\n" + workflow("train", "left", "right", "left") + workflow("left", "base")
    text += workflow("right", "base") + workflow("base") + workflow("apart")

    steps = project(text).steps("train")

    assert list(steps) == ["base", "left", "right", "train"]
    assert steps["train"].needs == ("left", "right")
    assert steps["base"].needs == ()


def test_a_chain_longer_than_the_stack(project: Make) -> None:
    text = "workflows:\n" + workflow("w0") + "".join(workflow(f"w{i}", f"w{i - 1}") for i in range(1, 3000))

    assert len(project(text).steps("w2999")) == 3000


def test_a_tag_of_one_workflow_is_reused_and_not_run(project: Make, artifact: Make) -> None:
    example = project("workflows:\n" + workflow("prepare") + workflow("train", "prepare:latest"))
    example.tags["prepare", "latest"] = [artifact("data"), artifact("more")]

    steps = example.steps("train")

    assert list(steps) == ["train"]
    assert steps["train"].needs == ()
    assert [item.path for item in steps["train"].inputs] == ["data", "more"]


@pytest.mark.parametrize("deps", ["['prepare']", "[{workflow: prepare}]", "prepare"])
def test_the_newest_success_is_reused(deps: str, project: Make, artifact: Make) -> None:
    example = project("workflows:\n" + workflow("prepare") + workflow("train", deps=deps))
    example.newest["prepare"] = [artifact("data")]

    assert [item.path for item in example.steps("train")["train"].inputs] == ["data"]


@pytest.mark.parametrize("deps", ["[':best']", "[{tag: best}]"])
def test_a_tag_of_all_workflows_is_reused(deps: str, project: Make, artifact: Make) -> None:
    example = project("workflows:\n" + workflow("train", deps=deps))
    example.tags[None, "best"] = [artifact("data"), artifact("model", workflow="train")]

    assert [item.path for item in example.steps("train")["train"].inputs] == ["data", "model"]


def test_a_tag_is_asked_for_once(project: Make, artifact: Make) -> None:
    text = "workflows:\n" + workflow("prepare") + "".join(workflow(f"w{i}", "prepare:v1") for i in range(5))
    example = project(text + workflow("train", *(f"w{i}" for i in range(5))))
    example.tags["prepare", "v1"] = [artifact("data")]

    assert len(example.steps("train")) == 6
    assert example.asked == [("prepare", "v1")]


def test_different_bytes_for_one_path_are_an_error(project: Make, artifact: Make) -> None:
    example = project("workflows:\n" + workflow("prepare") + workflow("train", "prepare:v1", "prepare:v2"))
    example.tags["prepare", "v1"] = [artifact("data", "a")]
    example.tags["prepare", "v2"] = [artifact("data", "b")]

    (error,) = example.wrong("train")

    assert (error.line, error.column) == (10, 9)
    assert error.message == "`prepare:v2` (run run-b) and run run-a bring different files for `data`"


def test_the_same_bytes_twice_are_one_input(project: Make, artifact: Make) -> None:
    example = project("workflows:\n" + workflow("prepare") + workflow("train", "prepare:v1", ":v1"))
    example.tags["prepare", "v1"] = example.tags[None, "v1"] = [artifact("data", "a")]

    assert len(example.steps("train")["train"].inputs) == 1


def test_one_path_from_two_steps_is_a_warning(project: Make, artifact: Make) -> None:
    writes = "    artifacts: [data, logs]\n"
    text = "workflows:\n" + workflow("a", more=writes) + workflow("b", more="    artifacts: [data]\n")
    example = project(text + workflow("train", "a", "b", "prepare:v1"))
    example.tags["prepare", "v1"] = [artifact("logs")]

    assert [(warning.line, warning.message) for warning in example.plan("train").warnings] == [
        (14, "`a` and run run-a both bring `logs`"),
        (15, "`b` and `a` both bring `data`"),
    ]


def test_a_requirements_file_is_read_once(project: Make) -> None:
    text = "workflows:\n" + "".join(workflow(f"w{i}", more="    requirements: r.txt\n") for i in range(5))
    example = project(text + workflow("train", *(f"w{i}" for i in range(5))))
    read: list[str] = []

    plan(
        example.load(),
        "train",
        [],
        run_name="goose-1",
        read_text=lambda path: read.append(path) or "",
        resolve_tag=example.resolve_tag,
        newest_done=example.newest_done,
    )

    assert read == ["r.txt"]


def test_a_partial_input_is_a_warning(project: Make, artifact: Make) -> None:
    example = project("workflows:\n" + workflow("prepare") + workflow("train", "prepare:v1"))
    example.tags["prepare", "v1"] = [artifact("data", partial=True)]

    (warning,) = example.plan("train").warnings

    assert "partial" in warning.message


def test_a_dependency_may_be_an_expression(project: Make, artifact: Make) -> None:
    example = project(
        "workflows:\n" + workflow("prepare") + workflow("train", "prepare:${{ data-tag }}"),
        "variables: {global: {data_tag: v1}}",
    )
    example.tags["prepare", "v2"] = [artifact("data")]

    assert len(example.steps("train", "--data-tag", "v2")["train"].inputs) == 1


def test_values_may_close_a_cycle(project: Make) -> None:
    text = "workflows:\n" + workflow("a", "${{ next }}") + workflow("b", "a") + workflow("c")
    example = project(text, "variables: {global: {next: c}}")

    assert list(example.steps("b")) == ["c", "a", "b"]
    (error,) = example.wrong("b", "--next", "b")
    assert error.message == "workflows depend on each other: b → a → b"
    (error,) = example.wrong("a", "--next", "a")
    assert error.message == "workflows depend on each other: a → a"
    (error,) = example.wrong("a", "--next", "bb")
    assert error.message == "there is no workflow `bb`"


def test_jobs_get_variables_under_their_own_environment(project: Make) -> None:
    more = "    environment: {SEED: own, OTHER: ''}\n"
    example = project(
        "workflows:\n" + workflow("train", more=more),
        "variables:\n  global: {seed: 1, batch-size: 8, flag: true, none: ~, v: 3.10}\n  train: {lr: 1e-3}\n",
    )

    assert example.steps("train")["train"].jobs[0].environment == {
        "SEED": "own", "OTHER": "", "BATCH_SIZE": "8", "FLAG": "true", "NONE": "", "V": "3.10", "LR": "1e-3",
    }  # fmt: skip


def test_a_zero_of_a_variable_asks_for_nothing(project: Make) -> None:
    more = '    resources: {gpu: "${{ n }}", cpu: "${{ n }}", memory: "${{ n }}", shm_size: "${{ n }}"}\n'
    job = (
        project("workflows:\n" + workflow("train", more=more), "variables: {global: {n: 0}}")
        .steps("train")["train"]
        .jobs[0]
    )

    assert (job.requirements.cpu, job.requirements.memory, job.requirements.gpu.count) == (1, None, 0)
    assert job.requirements.shm_size is None


def test_the_provider_may_be_an_expression(project: Make) -> None:
    text = "workflows:\n  - {name: train, provider: '${{ how }}', commands: [echo]}\n"

    assert project(text).steps("train", "--how", "bash")["train"].provider == "bash"
    (error,) = project(text).wrong("train", "--how", "bsh")
    assert (error.line, error.hint) == (2, "did you mean `bash`?")


def test_errors_of_all_steps_come_at_once(project: Make) -> None:
    text = "workflows:\n" + workflow("a", "x:v1", more="    artifacts: ['${{ one }}']\n")
    text += workflow("b", "a", more="    artifacts: ['${{ two }}', '${{ one }}']\n")

    assert [error.message for error in project(text).wrong("b")] == [
        "the variable `one` has no value",
        "there is no tag `x:v1`",
        "the variable `two` has no value",
        "the variable `one` has no value",
    ]


def test_expressions_that_expand_without_end_are_refused(project: Make) -> None:
    text = "workflows:\n" + workflow("train", more=f'    help: "{"${{ x }}" * 1000}"\n')
    example = project(text, f"variables: {{global: {{x: {'y' * 100_000}}}}}")

    (error,) = example.wrong("train")

    assert "too much text" in error.message


class CountConfig(WorkflowConfig):
    count: int
    ratio: float = 0.5


class Fan(Provider):
    """A provider of somebody else: plain pydantic types, several jobs, errors of its own."""

    name: ClassVar[str] = "fan"
    Config: ClassVar[type[CountConfig]] = CountConfig

    def plan(self, workflow: CountConfig, ctx: PlanContext) -> Sequence[JobSpec]:
        if workflow.count > 3:
            raise PlanError("more than there are", at=("count",), hint="at most 3")
        return [JobSpec(name=str(i), argv=(ctx.run_name, str(ctx.variables["seed"]))) for i in range(workflow.count)]


def fan(keys: str, project: Make) -> Any:
    example = project("")
    files = {
        ".dstack/workflows.yaml": f"workflows:\n- name: train\n  provider: fan\n  {keys}\n",
        ".dstack/variables.yaml": "variables: {global: {seed: 3}}",
    }
    return plan(
        load(files, {"fan": Fan}),
        "train",
        [],
        run_name="goose-1",
        read_text=lambda path: None,
        resolve_tag=example.resolve_tag,
        newest_done=example.newest_done,
    )


def test_a_foreign_provider_makes_several_jobs(project: Make) -> None:
    (step,) = fan("count: 2", project).steps

    assert [job.name for job in step.jobs] == ["0", "1"]
    assert step.jobs[0].argv == ("goose-1", "3")
    assert step.jobs[0].environment == {"SEED": "3"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("count: 4", "3:count: 4: more than there are"),
        ("count: many", "`count`: expected a whole number, not `many`"),
        ("count: [1]", "`count`: expected a whole number, not a list"),
        ("count: 1\n  ratio: [x]", "`ratio`: expected a number, not a list"),
        ("ratio: 1", "`count` is missing"),
    ],
)
def test_the_errors_of_a_foreign_provider_have_places(keys: str, message: str, project: Make) -> None:
    from dstack.workflows import Invalid

    with pytest.raises(Invalid) as caught:
        fan(keys, project)

    (error,) = caught.value.diagnostics
    assert error.line is not None
    assert message.removeprefix("3:count: 4: ") == error.message


def test_reused_inputs_compare_by_value(artifact: Make) -> None:
    assert isinstance(artifact("a"), ReusedInput)
    assert artifact("a") == artifact("a")


def test_the_command_of_the_brief(project: Make, artifact: Make) -> None:
    """`dstack run train --gpu 2 --epoch 100 --seed 2`: a variable used by the file, and two of the script's own."""
    text = """\
workflows:
  - {name: prepare, provider: python, script: prepare.py, artifacts: [data]}
  - name: train
    provider: python
    script: train.py
    artifacts:
      - checkpoint
    depends-on:
      - prepare:latest
    resources:
      memory: 64GB
      gpu: ${{ gpu }}
"""
    example = project(text)
    example.tags["prepare", "latest"] = [artifact("data")]

    (step,) = example.plan("train", "--gpu", "2", "--epoch", "100", "--seed", "2").steps

    assert step.jobs[0].argv == ("python", "train.py", "--epoch", "100", "--seed", "2")
    assert step.jobs[0].requirements.gpu.count == 2
    assert step.jobs[0].requirements.memory == 64 * 10**9
    assert step.jobs[0].artifacts == ("checkpoint",)
    assert step.variables == {"gpu": (2, "command line")}


@pytest.mark.parametrize("spelled", ["[model.pt, out]", "model.pt", "[{path: model.pt}]"])
def test_an_artifact_that_is_called_like_a_file_is_a_warning(spelled: str, project: Make) -> None:
    [warning] = project("workflows:\n" + workflow("train", more=f"    artifacts: {spelled}\n")).plan("train").warnings

    assert (warning.line, warning.message) == (5, "an artifact is a folder, and `model.pt` is called like a file")


def test_an_option_may_name_such_an_artifact_and_a_folder_may_have_a_dot(project: Make) -> None:
    example = project("workflows:\n" + workflow("train"))

    assert [warning.source for warning in example.plan("train", "-a", "loss.csv").warnings] == ["-a loss.csv"]
    assert example.plan("train", "-a", "runs/v1.2", "-a", ".cache").warnings == ()


def test_latest_needs_no_tag(project: Make) -> None:
    text = "workflows:\n" + workflow("prepare") + workflow("a", "prepare:latest") + workflow("b", "prepare:v1")

    [latest] = project(text).wrong("a")
    [tagged] = project(text).wrong("b")

    assert latest.hint == "run `dstack run prepare` first"
    assert tagged.hint == "run `dstack run prepare`, then `dstack tag RUN v1`"


def test_sections_of_variables_are_not_doubted_where_no_workflow_could_be_read(project: Make) -> None:
    example = project("train:\n  provider: bash\n", "variables: {train: {epochs: 1}}\n")
    with pytest.raises(Invalid) as caught:
        example.load()

    assert [error.message for error in caught.value.diagnostics] == ["`workflows:` is missing"]
