"""`dstack run PROVIDER …`: workflows of the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dstack.domain.resources import Gpu
from dstack.sdk.provider import JobSpec, PythonEnv

MakeProject = Callable[..., Any]
SOME = "workflows:\n  - {name: prepare, provider: bash, commands: [echo], artifacts: [data]}\n"
VARIABLES = "variables:\n  global: {seed: 2}\n  prepare: {rows: 3}\n"


@pytest.fixture
def job(project: MakeProject) -> Callable[..., JobSpec]:
    """The last job of `dstack run WORDS`."""

    def plan(*words: str) -> JobSpec:
        return project(SOME, VARIABLES, files={"req.txt"}).plan(*words).steps[-1].jobs[-1]

    return plan


@pytest.mark.parametrize(
    ("words", "argv"),
    [
        (["train.py"], ["train.py"]),
        (["train.py", "--epochs", "3", "x"], ["train.py", "--epochs", "3", "x"]),
        (["--gpu", "0", "my train.py", "--", "--gpu", "1"], ["my train.py", "--gpu", "1"]),
        (["-e", "A=b", "-i", "train.py", "-x"], ["train.py", "-x"]),
        (["--seed", "3", "train.py"], ["train.py"]),
        (["--global.seed=3", "train.py"], ["train.py"]),
        (["-m", "pytest", "-e", "--seed", "1"], ["-m", "pytest", "-e", "--seed", "1"]),
        (["-u", "train.py"], ["-u", "train.py"]),
        (["--", "train.py", "--seed", "4"], ["train.py", "--seed", "4"]),
        (["train.py", "${{ seed }}"], ["train.py", "${{ seed }}"]),
        (["it's ${{ x }} \\"], ["it's ${{ x }} \\"]),
    ],
)
def test_python_takes_a_file_and_its_arguments(words: list[str], argv: list[str], job: Callable[..., JobSpec]) -> None:
    assert list(job("python", *words).argv) == ["python", *argv]


def test_options_of_every_provider_and_global_variables(job: Callable[..., JobSpec]) -> None:
    found = job("python", "-r", "req.txt", "-e", "A=b", "-a", "out", "-a", "more", "train.py", "--gpu", "2", "--seed=5")

    assert found.python == PythonEnv(None, ("-r req.txt",))
    assert found.artifacts == ("out", "more")
    assert found.requirements.gpu == Gpu(2)
    assert found.environment["SEED"] == "5"
    assert found.argv == ("python", "train.py")


def test_bash_takes_commands(job: Callable[..., JobSpec]) -> None:
    found = job("bash", "-c", "echo 'a: b'\ndate", "--command=ls -l", "-p2")

    assert found.commands == ("echo 'a: b'\ndate", "ls -l")
    assert found.ports == (0, 0)


def test_curl_takes_an_address(job: Callable[..., JobSpec]) -> None:
    found = job("curl", "https://example.com/x", "-o", "raw/x", "-a", "raw")

    assert found.argv[-4:] == ("--output", "raw/x", "--url", "https://example.com/x")
    assert found.artifacts == ("raw",)


def test_torchrun(job: Callable[..., JobSpec]) -> None:
    assert job("torchrun", "--gpu", "2", "train.py", "--nnodes", "1", "--lr", "1").argv[-4:] == (
        "--nproc_per_node=2", "train.py", "--lr", "1",
    )  # fmt: skip


def test_dependencies(project: MakeProject) -> None:
    steps = project(SOME).plan("python", "train.py", "--depends-on", "prepare").steps

    assert [step.name for step in steps] == ["prepare", "python"]
    assert steps[1].needs == ("prepare",)


def test_a_workflow_of_that_name_goes_first(project: MakeProject) -> None:
    text = "workflows:\n  - {name: python, provider: bash, commands: [echo own]}\n"

    assert project(text).plan("python").steps[0].jobs[0].commands == ("echo own",)


@pytest.mark.parametrize(
    ("words", "argument", "message", "hint"),
    [
        (["python"], "python", "`script` is missing", "write `dstack run python FILE [ARGUMENTS]`"),
        (["bash"], "bash", "`commands` is missing", "write `dstack run bash -c COMMAND [-p PORTS]`"),
        (["bash", "-c"], "-c", "`-c` needs a value", "write `dstack run bash -c COMMAND [-p PORTS]`"),
        (["bash", "-c", "echo", "x"], "x", "`bash` takes no such argument: `x`", "dstack run bash"),
        (["bash", "-c", "echo", "-p", "many"], "-p many", "`ports`: expected a whole number, not `many`", ""),
        (["curl", "http://x"], "curl", "`output` is missing", "write `dstack run curl URL -o FILE -a FOLDER`"),
        (["curl", "u", "-o", "x"], "-o x", "`x` lies in none of the `artifacts`", "such as `data/x`"),
        (["curl", "u", "-o", "a/x", "-a", "a", "-a", "/b"], "-a /b", "`/b` is an absolute path", "write it relative"),
        (["python", "a.py", "--gpu", "x"], "--gpu x", "`resources.gpu.count`: expected a whole number", ""),
        (["lab"], "lab", "the provider `lab` cannot run yet", "jupyter lab --port"),
        (["docker", "ubuntu", "-c", "ls"], "ubuntu", "the provider `docker` cannot run yet", "provider: bash"),
        (["python@dev", "a.py"], "python@dev", "providers of other branches cannot run yet", "`dstack run python`"),
        (["pyton", "a.py"], "pyton", "there is no workflow `pyton`", "did you mean `python`?"),
        (
            ["torchrun", "--nnodes", "2", "a.py"],
            "--nnodes 2",
            "a job on several machines cannot run yet",
            "one machine",
        ),
    ],
)
def test_what_is_wrong_is_told_of_the_words(
    words: list[str], argument: str, message: str, hint: str, project: MakeProject
) -> None:
    errors = project(SOME).wrong(*words)

    assert [(error.file, error.line) for error in errors] == [(None, None)]
    assert errors[0].source == argument
    assert message in errors[0].message
    assert hint in errors[0].hint
