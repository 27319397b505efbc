"""How the words after `dstack run NAME` are read (DESIGN §5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dstack.domain.resources import Gpu

MakeProject = Callable[..., Any]

WORKFLOWS = """\
workflows:
  - name: prepare
    provider: bash
    commands: ["echo ${{ rows }} ${{ seed }} ${{ shared }}"]
  - name: train
    provider: python
    script: train.py
    depends-on: [prepare]
    environment: {LR: "${{ lr }}", KEPT: here}
    artifacts: [checkpoint]
    resources: {memory: 1GB, gpu: {name: K80, count: 1}}
"""
VARIABLES = """\
variables:
  global: {seed: 2, Batch-Size: 8}
  prepare: {rows: 100, shared: 1}
  train: {epoch: 10, gpu: 1, lr: 3.10}
"""


@pytest.fixture
def example(project: MakeProject) -> Any:
    return project(WORKFLOWS, VARIABLES)


def values(step: Any) -> dict[str, object]:
    return {name: value for name, (value, _) in step.variables.items()}


def test_without_options_values_come_from_the_file(example: Any) -> None:
    steps = example.steps("train")

    assert steps["train"].variables["epoch"] == (10, ".dstack/variables.yaml:4")
    assert values(steps["train"]) == {"seed": 2, "Batch-Size": 8, "epoch": 10, "gpu": 1, "lr": "3.10"}
    assert values(steps["prepare"]) == {"seed": 2, "Batch-Size": 8, "rows": 100, "shared": 1}


@pytest.mark.parametrize("words", [("--epoch", "20"), ("--epoch=20",), ("--epoch", "3", "--epoch=20")])
def test_a_declared_variable(words: tuple[str, ...], example: Any) -> None:
    step = example.steps("train", *words)["train"]

    assert step.variables["epoch"] == (20, "command line")
    assert step.jobs[0].environment["EPOCH"] == "20"
    assert step.jobs[0].argv == ("python", "train.py")


@pytest.mark.parametrize("word", ["--Batch-Size", "--Batch_Size"])
def test_dash_and_underscore_are_equal_and_the_declared_name_stays(word: str, example: Any) -> None:
    steps = example.steps("train", word, "16")

    assert values(steps["train"])["Batch-Size"] == 16
    assert values(steps["prepare"])["Batch-Size"] == 16
    assert steps["train"].jobs[0].environment["BATCH_SIZE"] == "16"


def test_a_variable_named_like_an_option_wins_over_it(example: Any) -> None:
    step = example.steps("train", "--gpu", "4")["train"]

    assert values(step)["gpu"] == 4
    assert step.jobs[0].requirements.gpu == Gpu(1, "K80")


def test_a_section_reaches_another_workflow_of_the_run(example: Any) -> None:
    steps = example.steps("train", "--prepare.seed", "3", "--prepare.rows=5", "--global.seed", "4")

    assert values(steps["prepare"])["seed"] == 3
    assert values(steps["prepare"])["rows"] == 5
    assert values(steps["train"])["seed"] == 4


def test_a_name_used_in_the_graph_reaches_who_uses_it(example: Any) -> None:
    steps = example.steps("train", "--rows", "7")

    assert steps["prepare"].jobs[0].commands == ("echo 7 2 1",)
    assert "rows" not in values(steps["train"])


def test_an_own_variable_fills_what_a_dependency_lacks(project: MakeProject) -> None:
    steps = project(WORKFLOWS, VARIABLES.replace("rows: 100, ", "").replace("epoch: 10", "rows: 10")).steps(
        "train", "--rows", "7"
    )

    assert steps["prepare"].jobs[0].commands == ("echo 7 2 1",)
    assert values(steps["train"])["rows"] == 7


@pytest.mark.parametrize(
    ("word", "value"), [("3.10", "3.10"), ("1e-3", "0.001"), ("-5", -5), ("true", True), ("a b", "a b"), ("", "")]
)
def test_values_are_typed_as_yaml_types_them(word: str, value: object, example: Any) -> None:
    step = example.steps("train", f"--epoch={word}")["train"]

    assert step.jobs[0].environment["EPOCH"] == word
    if word != "1e-3":
        assert values(step)["epoch"] == value


def test_a_negative_number_may_be_the_next_word(example: Any) -> None:
    assert values(example.steps("train", "--epoch", "-1")["train"])["epoch"] == -1


def test_what_is_nobodys_goes_to_the_program(example: Any) -> None:
    step = example.steps("train", "--dropout", "0.1", "--epoch", "2", "-x", "file", "--flag=", "-")["train"]

    assert step.jobs[0].argv == ("python", "train.py", "--dropout", "0.1", "-x", "file", "--flag=", "-")
    assert values(step)["epoch"] == 2


def test_everything_after_two_dashes_goes_to_the_program(example: Any) -> None:
    step = example.steps("train", "--", "--epoch", "2", "--", "-e")["train"]

    assert step.jobs[0].argv == ("python", "train.py", "--epoch", "2", "--", "-e")
    assert values(step)["epoch"] == 10


def test_arguments_are_the_root_programs_only(example: Any) -> None:
    assert example.steps("train", "x")["prepare"].jobs[0].commands == ("echo 100 2 1",)


def test_a_misspelled_variable_is_passed_on_with_a_warning(example: Any) -> None:
    (warning,) = example.plan("train", "--epch", "3").warnings

    assert (warning.file, warning.severity, warning.source) == (None, "warning", "--epch")
    assert warning.hint == "did you mean `--epoch`?"


@pytest.mark.parametrize("words", [("--epochs-of-mine", "3"), ("--lr", "1"), ("--depth", "2"), ("--", "--epoch", "3")])
def test_what_is_meant_for_the_program_is_passed_on_without_a_word(words: tuple[str, ...], example: Any) -> None:
    assert example.plan("train", *words).warnings == ()


def test_the_name_of_another_workflow_is_an_argument_with_a_warning(example: Any) -> None:
    plan = example.plan("train", "prepare")
    [warning] = plan.warnings
    assert warning.message == "`prepare` is a workflow, and here an argument for the program of `train`"
    assert example.plan("train", "--", "prepare").warnings == ()


def test_options_override_the_file(project: MakeProject) -> None:
    example = project(WORKFLOWS, "variables: {global: {lr: 1, rows: 1, seed: 1, shared: 1}}", {"r.txt"})
    words = "-e LR=2 -eNEW= --env=X=a=b -a out -a ./logs/ -i --cpu 4 --memory=2GiB --gpu 2 --gpu-name V100"
    more = ["--gpu_memory", "16GB", "--shm-size", "1GB", "-r", "r.txt", "--working-dir", "src/"]

    job = example.steps("train", *words.split(), *more)["train"].jobs[0]

    assert {key: job.environment[key] for key in ("LR", "NEW", "X", "KEPT")} == {
        "LR": "2", "NEW": "", "X": "a=b", "KEPT": "here",
    }  # fmt: skip
    assert job.artifacts == ("out", "logs")
    assert job.working_dir == "src"
    assert job.python.requirements == ("-r r.txt",)
    assert job.requirements.cpu == 4
    assert job.requirements.memory == 2 * 2**30
    assert job.requirements.gpu == Gpu(2, "V100", 16 * 10**9)
    assert job.requirements.shm_size == 10**9
    assert job.requirements.interruptible


@pytest.mark.parametrize(
    ("written", "gpu"),
    [
        ("gpu: 1", Gpu(3)),
        ("V100/gpu: 1", Gpu(3, "V100")),
        ("gpu: {memory: 8GB}", Gpu(3, None, 8 * 10**9)),
        ("cpu: 1", Gpu(3)),
    ],
)
def test_a_count_of_gpus_keeps_what_the_file_says_of_them(written: str, gpu: Gpu, project: MakeProject) -> None:
    text = f"workflows:\n  - {{name: train, provider: bash, commands: [echo], resources: {{{written}}}}}\n"

    assert project(text).steps("train", "--gpu", "3")["train"].jobs[0].requirements.gpu == gpu


def test_interruptible_can_be_taken_back(project: MakeProject) -> None:
    text = "workflows:\n  - {name: train, provider: bash, commands: [echo], resources: {interruptible: true}}\n"

    assert project(text).steps("train")["train"].jobs[0].requirements.interruptible
    assert not project(text).steps("train", "--interruptible=false")["train"].jobs[0].requirements.interruptible


@pytest.mark.parametrize("form", ["[A=1, B=2]", "{A: 1, B: 2}"])
@pytest.mark.parametrize("key", ["env", "environment"])
def test_environment_options_join_both_forms(form: str, key: str, project: MakeProject) -> None:
    text = f"workflows:\n  - {{name: train, provider: bash, commands: [echo], {key}: {form}}}\n"

    job = project(text).steps("train", "-e", "B=3", "-e", "C=4")["train"].jobs[0]

    assert job.environment == {"A": "1", "B": "3", "C": "4"}


def test_run_args_take_the_arguments(project: MakeProject) -> None:
    text = 'workflows:\n  - {name: train, provider: bash, commands: ["./train ${{ run.args }}"]}\n'

    assert project(text).steps("train", "--x", "a b", "--", "--cpu")["train"].jobs[0].commands == (
        "./train --x 'a b' --cpu",
    )
    assert project(text).steps("train")["train"].jobs[0].commands == ("./train ",)


def test_a_script_that_names_its_arguments_gets_them_once(project: MakeProject) -> None:
    text = 'workflows:\n  - {name: train, provider: python, script: train.py, args: "${{ run.args }} --end"}\n'

    assert project(text).steps("train", "--x", "a b")["train"].jobs[0].argv == (
        "python", "train.py", "--x", "a b", "--end",
    )  # fmt: skip


def test_an_option_may_lead_to_another_workflow_whose_variables_it_sets(project: MakeProject) -> None:
    text = """\
workflows:
  - {name: small, provider: bash, commands: ["echo ${{ rows }}"]}
  - {name: large, provider: bash, commands: ["echo ${{ shards }}"]}
  - name: train
    provider: bash
    commands: [echo]
    depends-on: ["${{ data }}"]
"""
    example = project(text, "variables: {train: {data: small}, small: {rows: 1}}")

    assert list(example.steps("train")) == ["small", "train"]
    steps = example.steps("train", "--data", "large", "--shards", "8")
    assert list(steps) == ["large", "train"]
    assert steps["large"].jobs[0].commands == ("echo 8",)


@pytest.mark.parametrize("word", ["a\0b", "\udcff"])
def test_what_is_no_text_is_refused(word: str, example: Any) -> None:
    (error,) = example.wrong("train", "--epoch", word)

    assert error.file is None


@pytest.mark.parametrize("words", [["-p", "2"], ["-p2"], ["--ports=2"]])
def test_ports_where_the_provider_has_them(words: list[str], project: MakeProject) -> None:
    text = "workflows:\n  - {name: serve, provider: bash, commands: [a]}\n"
    example = project(text + "  - {name: train, provider: python, script: t.py}\n", files={"t.py"})

    assert example.steps("serve", *words)["serve"].jobs[0].ports == (0, 0)
    assert example.steps("train", *words)["train"].jobs[0].argv == ("python", "t.py", *words)


def test_an_option_of_a_key_that_the_provider_lacks_is_an_error(project: MakeProject) -> None:
    text = "workflows:\n  - {name: get, provider: curl, url: 'http://x/y', output: a/b, artifacts: [a]}\n"

    (error,) = project(text).wrong("get", "--requirements", "r.txt")

    assert error.message == "`get` has no option `--requirements`"
    assert project(text).steps("get", "--cpu", "3")["get"].jobs[0].requirements.cpu == 3


@pytest.mark.parametrize("words", [["--dep", ":v1", "--deps", "prepare"], ["--deps=:v1", "--dep=prepare"]])
def test_dependencies_of_the_command_line_take_the_place_of_the_files(
    words: list[str], project: MakeProject, artifact: Callable[..., Any]
) -> None:
    text = "workflows:\n  - {name: train, provider: bash, commands: [a], deps: [gone]}\n"
    example = project(text)
    example.tags[None, "v1"] = [artifact("data")]
    example.newest["prepare"] = [artifact("model")]

    assert [item.path for item in example.steps("train", *words)["train"].inputs] == ["data", "model"]
    (error,) = example.wrong("train", "--dep", ":v2")
    assert (error.file, error.source, error.message) == (None, "--dep :v2", "there is no tag `:v2`")


def test_every_option_is_described(example: Any) -> None:
    from dstack.providers import registry
    from dstack.workflows import options

    shown = {option.split("--")[1].split(" ")[0] for option, _ in options.describe(registry()["torchrun"])}
    assert shown == set(options.available(registry()["torchrun"])) - {"deps"}
    assert "nnodes" in shown
    assert "ports" not in shown
