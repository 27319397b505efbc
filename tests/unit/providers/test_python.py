from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import ValidationError

from dstack.sdk.provider import JobSpec, PlanError, PythonEnv
from dstack.sdk.scalars import parse_scalar

Planned = Callable[..., JobSpec]


@pytest.mark.parametrize("key", ["script", "file", "python_script"])
def test_the_script_may_hold_arguments(key: str, planned: Planned) -> None:
    job = planned("python", {key: "train.py --x 'a b'"})

    assert job == JobSpec(argv=("python", "train.py", "--x", "a b"), python=PythonEnv())


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ("--lr 0.1 'a b'", ("--lr", "0.1", "a b")),
        (["--lr", parse_scalar("3.10"), True, "a b", ""], ("--lr", "3.10", "true", "a b", "")),
        (parse_scalar("3.10"), ("3.10",)),
        (None, ()),
    ],
)
def test_arguments_are_a_text_or_a_list(args: object, expected: tuple[str, ...], planned: Planned) -> None:
    assert planned("python", {"script": "a.py", "args": args}).argv == ("python", "a.py", *expected)


def test_arguments_of_the_command_line_come_last(planned: Planned) -> None:
    assert planned("python", {"script": "a.py 1", "args": "2"}, args=("3", "x y")).argv == (
        "python", "a.py", "1", "2", "3", "x y",
    )  # fmt: skip


def test_commands_that_go_first_make_it_a_shell(planned: Planned) -> None:
    job = planned("python", {"script": "a.py 'x y'", "before_run": "export A=1\n"}, args=("$HOME",))

    assert job.argv == ()
    assert job.commands == ("export A=1", "python a.py 'x y' '$HOME'")


def test_the_environment_it_runs_in(planned: Planned) -> None:
    keys = {"script": "a.py", "version": parse_scalar("3.10"), "requirements": ["torch"]}

    assert planned("python", keys).python == PythonEnv("3.10", ("torch",))


@pytest.mark.parametrize("key", ["script", "file", "python_script"])
def test_the_script_must_be_in_the_code(key: str, planned: Planned) -> None:
    with pytest.raises(PlanError, match=r"no file `trian\.py`") as caught:
        planned("python", {key: "trian.py --x"}, {"train.py"})

    assert caught.value.at == (key,)
    assert "did you mean `train.py`?" in caught.value.hint


def test_the_script_is_looked_for_in_the_working_directory(planned: Planned) -> None:
    keys = {"script": "./train.py", "working_dir": "src"}

    assert planned("python", keys, {"src/train.py"}).argv == ("python", "./train.py")
    with pytest.raises(PlanError):
        planned("python", keys, {"train.py"})


@pytest.mark.parametrize(
    "keys", [{"script": "-m pytest"}, {"script": "/opt/tool.py"}, {"script": "made.py", "setup": ["echo > made.py"]}]
)
def test_scripts_that_may_come_from_elsewhere(keys: dict[str, object], planned: Planned) -> None:
    planned("python", keys, set())


@pytest.mark.parametrize("script", ["../other.py", ".."])
def test_a_script_outside_of_the_code(script: str, planned: Planned) -> None:
    with pytest.raises(PlanError):
        planned("python", {"script": script}, set())


@pytest.mark.parametrize(
    "keys",
    [
        {}, {"script": ""}, {"script": "''"}, {"script": "'a"}, {"script": "a.py", "file": "b.py"},
        {"script": ["a.py"]},
        {"script": "a.py", "args": "'x"}, {"script": "a.py", "args": [["x"]]}, {"script": "a.py", "args": {"x": 1}},
        {"script": "a.py", "commands": ["echo"]}, {"script": "a.py", "args": ["\0"]},
        {"script": "a.py", "setup": ["x"], "before_run": ["y"]},
    ],
)  # fmt: skip
def test_what_cannot_run(keys: dict[str, object], planned: Planned) -> None:
    with pytest.raises(ValidationError):
        planned("python", keys)
