from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import ValidationError

from dstack.domain.reasons import Reason
from dstack.domain.resources import Gpu, Requirements
from dstack.providers.bash import BashConfig, BashProvider
from dstack.sdk.provider import JobSpec, PlanError, PythonEnv, secret_marker
from dstack.sdk.retry import RETRY_WORDS
from dstack.sdk.scalars import parse_scalar
from tests.unit.providers.conftest import Context

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
    assert planned("bash", keys, {"r.txt", "src/a.py"}).python == PythonEnv(None, ("-r r.txt",))


@pytest.mark.parametrize("requirements", ["gone.txt", ["numpy", "-r gone.txt"], "../up.txt", "/abs.txt"])
def test_a_requirements_file_must_be_in_the_code(requirements: object, planned: Planned) -> None:
    with pytest.raises(PlanError) as caught:
        planned("bash", {"commands": ["b"], "requirements": requirements}, {"../up.txt", "/abs.txt"})

    assert caught.value.at[0] == "requirements"


@pytest.mark.parametrize("name", ["numpy", "scikit-learn", "torch>=2.1"])
def test_a_package_where_a_file_is_expected(name: str, planned: Planned) -> None:
    with pytest.raises(PlanError) as caught:
        planned("bash", {"commands": ["b"], "requirements": name})

    assert caught.value.hint.endswith(f"or in a list: `requirements: [{name}]`")


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
        ([{"path": "./data", "mount": True}, "data", {"path": "logs"}], ("data", "logs")),
        ({"path": "data"}, ("data",)),
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


@pytest.mark.parametrize(
    ("written", "ports"), [(None, ()), (0, ()), (2, (0, 0)), ([8080, "9090"], (8080, 9090)), ([], ()), ("1", (0,))]
)
def test_ports_are_a_number_or_a_list(written: object, ports: tuple[int, ...], planned: Planned) -> None:
    assert planned("bash", {"commands": ["b"], "ports": written}).ports == ports


@pytest.mark.parametrize("written", [101, -1, [0], [70000], ["x"], True, {"a": 1}])
def test_ports_that_are_none(written: object, planned: Planned) -> None:
    with pytest.raises(ValidationError):
        planned("bash", {"commands": ["b"], "ports": written})


@pytest.mark.parametrize("version", ["2.7", "3.x", "latest", "3.10-dev", "", "3.10 "])
def test_versions_that_are_none(version: str, planned: Planned) -> None:
    with pytest.raises(ValidationError):
        planned("bash", {"commands": ["b"], "version": version})


@pytest.mark.parametrize(
    ("written", "about"),
    [
        ({"interruptible": True}, [("resources", "interruptible")]),
        ({"shm_size": "1GB"}, [("resources", "shm_size")]),
        ({"local": True, "cpu": 1}, []),
        ({"shm_size": 0, "interruptible": False, "remote": False}, []),
    ],
)
def test_resources_without_effect_here_are_told(written: dict[str, object], about: list[tuple[str, str]]) -> None:
    context = Context()
    config = BashProvider.Config.model_validate(
        {"name": "train", "provider": "bash", "commands": ["b"], "resources": written}
    )

    BashProvider().plan(config, context)

    assert [at for _, at in context.warnings] == about


def test_a_machine_of_a_cloud_is_not_to_be_had(planned: Planned) -> None:
    with pytest.raises(PlanError) as caught:
        planned("bash", {"commands": ["b"], "resources": {"remote": True}})

    assert caught.value.at == ("resources", "remote")


@pytest.mark.parametrize(
    ("written", "retry"),
    [
        (2, (RETRY_WORDS["any"], 2, 1.0)),
        ({}, (RETRY_WORDS["any"], 3, 1.0)),
        ({"on": "lost", "max": 0}, (RETRY_WORDS["lost"], 0, 1.0)),
        ({"on": ["oom", "timeout"], "backoff": "1m30s"}, (frozenset({Reason.OOM, Reason.TIMEOUT}), 3, 90.0)),
        ({"on": ["failure", "lost", "timeout"], "backoff": 0}, (RETRY_WORDS["any"], 3, 0.0)),
    ],
)
def test_retry(written: object, retry: tuple[frozenset[Reason], int, float]) -> None:
    config = bash(retry=written)

    assert config.retry is not None
    assert (config.retry.on, config.retry.max, config.retry.backoff) == retry


@pytest.mark.parametrize(
    "written", [{"on": "stopped"}, {"on": []}, {"on": ["no-capacity"]}, {"max": -1}, {"backoff": "soon"}, "often", [1]]
)
def test_a_retry_that_makes_no_sense(written: object) -> None:
    with pytest.raises(ValidationError):
        bash(retry=written)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (90, 90.0), (1.5, 1.5), ("90", 90.0), ("2h", 7200.0), ("1h30m", 5400.0), ("1.5d", 129600.0), ("500ms", 0.5),
        ("1w", 604800.0), (0, None), ("0s", None), (None, None), (parse_scalar("017"), 17.0),
    ],
)  # fmt: skip
def test_a_time_limit(written: object, seconds: float | None) -> None:
    assert bash(timeout=written).timeout == seconds


@pytest.mark.parametrize("written", ["2 hours", "h", "-1", -1, "1h 30m", "1y", True, [1], "", "9" * 50, "53w", 1e300])
def test_a_time_limit_that_is_none(written: object) -> None:
    with pytest.raises(ValidationError):
        bash(timeout=written)


def test_keys_of_two_words_have_two_spellings() -> None:
    assert bash(**{"fail-fast": True, "continue-on-failure": "yes"}) == bash(fail_fast=True, continue_on_failure=True)
    assert bash(**{"if": "always()"}).if_ == "always()"
    assert bash(**{"if": False}).if_ is False
    with pytest.raises(ValidationError):
        bash(if_="always()")


def bash(**keys: object) -> BashConfig:
    return BashProvider.Config.model_validate({"name": "train", "provider": "bash", "commands": ["b"], **keys})
