from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import ValidationError

from dstack.domain.resources import Gpu, Requirements
from dstack.sdk.provider import JobSpec, PlanError, PythonEnv, secret_marker
from dstack.sdk.scalars import parse_scalar

Planned = Callable[..., JobSpec]


def test_commands_are_a_list_or_one_text(planned: Planned) -> None:
    assert planned("bash", {"commands": ["a", True, parse_scalar("3.10")]}).commands == ("a", "true", "3.10")
    assert planned("bash", {"commands": "cat <<E\nx\nE\n"}).commands == ("cat <<E\nx\nE",)


def test_a_plain_job_asks_for_little(planned: Planned) -> None:
    assert planned("bash", {"commands": ["true"]}) == JobSpec(commands=("true",))


@pytest.mark.parametrize("key", ["before_run", "setup"])
def test_commands_that_go_first(key: str, planned: Planned) -> None:
    assert planned("bash", {"commands": ["b"], key: ["a"]}).commands == ("a", "b")


@pytest.mark.parametrize("key", ["version", "python"])
def test_the_version_is_read_from_its_text(key: str, planned: Planned) -> None:
    assert planned("bash", {"commands": ["b"], key: parse_scalar("3.10")}).python == PythonEnv("3.10")


def test_requirements_are_a_file_or_a_list(planned: Planned) -> None:
    keys = {"commands": ["b"]}

    assert planned("bash", {**keys, "requirements": "r.txt"}, {"r.txt"}).python == PythonEnv(None, ("-r r.txt",))
    assert planned("bash", {**keys, "requirements": ["numpy==1.26", "torch"]}).python == PythonEnv(
        None, ("numpy==1.26", "torch")
    )


def test_a_requirements_file_is_found_in_the_working_directory_first(planned: Planned) -> None:
    keys = {"commands": ["b"], "requirements": "r.txt", "working_dir": "./src/"}

    assert planned("bash", keys, {"src/r.txt", "r.txt"}).python == PythonEnv(None, ("-r src/r.txt",))
    assert planned("bash", keys, {"r.txt"}).python == PythonEnv(None, ("-r r.txt",))


@pytest.mark.parametrize("requirements", ["gone.txt", ["numpy", "-r gone.txt"], "../up.txt", "/abs.txt"])
def test_a_requirements_file_must_be_in_the_code(requirements: object, planned: Planned) -> None:
    with pytest.raises(PlanError) as caught:
        planned("bash", {"commands": ["b"], "requirements": requirements}, {"../up.txt", "/abs.txt"})

    assert caught.value.at[0] == "requirements"


@pytest.mark.parametrize(
    ("written", "requirements"),
    [
        ({}, Requirements()),
        ({"cpu": 4, "memory": "512MiB"}, Requirements(4, 512 * 2**20)),
        ({"cpu": {"count": 2}}, Requirements(2)),
        ({"cpu": 0, "memory": 0, "gpu": 0, "shm_size": 0}, Requirements()),
        ({"gpu": 2}, Requirements(gpu=Gpu(2))),
        ({"gpu": {"name": "K80"}}, Requirements(gpu=Gpu(1, "K80"))),
        ({"gpu": {"memory": "16GB", "count": 2}}, Requirements(gpu=Gpu(2, None, 16 * 10**9))),
        ({"gpu": {"count": 0, "name": "K80"}}, Requirements()),
        ({"v100/gpu": 2}, Requirements(gpu=Gpu(2, "v100"))),
        ({"v100/gpu": 0}, Requirements()),
        ({"gpu": None, "cpu": None}, Requirements()),
        ({"interruptible": "yes", "shm_size": "1GB"}, Requirements(shm_size=10**9, interruptible=True)),
        ({"gpu": "2"}, Requirements(gpu=Gpu(2))),
    ],
)
def test_resources(written: dict[str, object], requirements: Requirements, planned: Planned) -> None:
    assert planned("bash", {"commands": ["b"], "resources": written}).requirements == requirements


@pytest.mark.parametrize(
    "written",
    [
        {"cpu": True}, {"cpu": -1}, {"cpu": 1.5}, {"cpu": 10**9}, {"memory": "16"}, {"memory": 16}, {"memory": "x"},
        {"memory": "9" * 400 + "GB"}, {"memory": "2000000TB"}, {"gpu": 1, "v100/gpu": 1}, {"a/gpu": 1, "b/gpu": 1},
        {"/gpu": 1}, {"gpu": [1]}, {"gpu": {"n": 1}}, {"interruptible": 2}, {"interruptible": []}, {"disk": "1GB"},
    ],
)  # fmt: skip
def test_resources_that_make_no_sense(written: dict[str, object], planned: Planned) -> None:
    with pytest.raises(ValidationError):
        planned("bash", {"commands": ["b"], "resources": written})


@pytest.mark.parametrize(
    ("written", "paths"),
    [
        (["./data/", "a//b", "data", "x/./y"], ("data", "a/b", "x/y")),
        ("out", ("out",)),
        (None, ()),
        (["..data", "a..b", ".cache"], ("..data", "a..b", ".cache")),
    ],
)
def test_artifacts_are_normalised(written: object, paths: tuple[str, ...], planned: Planned) -> None:
    assert planned("bash", {"commands": ["b"], "artifacts": written}).artifacts == paths


@pytest.mark.parametrize(
    "path", ["/data", "~/data", "..", "../x", "a/../b", "a/..", ".", "./", "", " ", "a\nb", "a\0b"]
)
def test_artifacts_stay_within_the_working_copy(path: str, planned: Planned) -> None:
    with pytest.raises(ValidationError):
        planned("bash", {"commands": ["b"], "artifacts": [path]})


@pytest.mark.parametrize(
    ("key", "written"),
    [("environment", {"A": 1, "B": None, "C": parse_scalar("3.10")}), ("env", ["A=1", "B=", "C=3.10"])],
)
def test_environment_is_a_map_or_a_list(key: str, written: object, planned: Planned) -> None:
    assert planned("bash", {"commands": ["b"], key: written}).environment == {"A": "1", "B": "", "C": "3.10"}


def test_a_name_alone_takes_the_callers_value(planned: Planned) -> None:
    job = planned("bash", {"commands": ["b"], "env": ["A", "B=2", "C"]})

    assert job.environment == {"A": secret_marker("env:A"), "B": "2", "C": secret_marker("env:C")}
    assert job.secrets == ("env:A", "env:C")


@pytest.mark.parametrize("written", [{"1A": "x"}, {"A B": "x"}, ["=x"], [""], {"A": [1]}, "A=b", ["A=\0"], {"A": "\0"}])
def test_environment_that_no_shell_takes(written: object, planned: Planned) -> None:
    with pytest.raises(ValidationError):
        planned("bash", {"commands": ["b"], "environment": written})


@pytest.mark.parametrize("version", ["2.7", "3.x", "latest", "3.10-dev", "", "3.10 "])
def test_versions_that_are_none(version: str, planned: Planned) -> None:
    with pytest.raises(ValidationError):
        planned("bash", {"commands": ["b"], "version": version})
