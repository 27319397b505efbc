"""What one repository made, reused in another on the same git host."""

from __future__ import annotations

import pytest

from dstack import workflows
from tests.support.runner import FakeRunner
from tests.support.world import World

DATA = """
workflows:
  - {name: prepare, provider: bash, commands: ["true"], artifacts: [data]}
"""
THEIRS = "git.example.org/ada/data"
OURS = "git.example.org/bob/digits"


def depending(*on: str) -> str:
    return f"workflows: [{{name: train, provider: bash, commands: ['true'], deps: [{', '.join(on)}]}}]"


def prepared(world: World, runner: FakeRunner, content: str) -> str:
    world.clock.advance(1)
    name = world.submit(DATA, "prepare", repository=THEIRS, remote=THEIRS)
    world.place()
    runner.poll()
    runner.run("prepare", 0, {"data": content})
    return name


@pytest.mark.parametrize(
    "on",
    [
        "ada/data/prepare", "{workflow: ada/data/prepare}", "ada/data/first", "{tag: ada/data/first}",
        "':ada/data/first'", "'ada/data/prepare:first'", "{workflow: ada/data/prepare, mount: true}",
    ],
)  # fmt: skip
def test_a_workflow_or_tag_of_another_repository(on: str, world: World) -> None:
    runner = world.runner(slots=8)
    first = prepared(world, runner, "1")
    world.tag(first, "first")
    second = prepared(world, runner, "2")

    name = world.submit(depending(on), "train", repository=OURS, remote=OURS)

    world.place()
    (assignment,) = [item for item in runner.poll().assign if item.run_name == name]
    expected = first if "first" in on else second
    assert [(item.path, item.run_name) for item in assignment.inputs] == [("data", expected)]


@pytest.mark.parametrize(
    ("on", "remote", "message"),
    [
        ("ada/data/prepare", None, "`ada/data/prepare` cannot be had: this repository has no remote"),
        ("ada/data/prepare", "file:///srv/x", "`ada/data/prepare` cannot be had: this repository has no remote"),
        ("ada/data/prepare", "other.example.org/bob/x", "no run of other.example.org/ada/data is known here"),
        ("ada/date/prepare", OURS, "no run of git.example.org/ada/date is known here"),
        ("ada/data/train", OURS, "no run of `ada/data/train` has ended well yet"),
        ("':ada/data/best'", OURS, "there is no tag `:ada/data/best`"),
    ],
)
def test_what_is_not_there_says_which_part_is_missing(on: str, remote: str | None, message: str, world: World) -> None:
    prepared(world, world.runner(), "1")

    with pytest.raises(workflows.Invalid) as caught:
        world.submit(depending(on), "train", repository=remote or "x", remote=remote)

    (diagnostic,) = caught.value.diagnostics
    assert message in diagnostic.message
    assert (diagnostic.line, diagnostic.column) == (1, 70)
