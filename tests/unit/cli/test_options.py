"""How `dstack run` reads its words."""

from __future__ import annotations

import pytest

from dstack.cli.errors import UserError
from dstack.cli.options import parse


def test_own_options_stand_before_or_after_the_name() -> None:
    for words in (["-d", "-t", "v1", "train", "--lr", "0.1"], ["train", "--lr", "0.1", "-t", "v1", "--detach"]):
        options = parse(words)
        assert (options.workflow, options.arguments) == ("train", ["--lr", "0.1"])
        assert (options.detach, options.tags) == (True, ["v1"])


def test_everything_else_stays_as_it_was_typed() -> None:
    words = ["-data", "x", "-1", "--epochs=3", "", "-", "--tags", "--jsonl", "a b", "-tx"]
    assert parse(["train", *words]).arguments == words


def test_after_two_dashes_nothing_is_ours() -> None:
    options = parse(["train", "--lr", "1", "--", "-d", "--json", "--", "x"])
    assert options.arguments == ["--lr", "1", "--", "-d", "--json", "--", "x"]
    assert not options.detach


def test_values_may_be_joined() -> None:
    options = parse(["train", "--tag=a", "--tag", "b", "--repo=x=y"])
    assert (options.tags, options.repo) == (["a", "b"], "x=y")


def test_force_is_ours_beside_pull_only() -> None:
    options = parse(["train", "-f", "x", "--force"])
    assert (options.arguments, options.force) == (["-f", "x", "--force"], False)
    for words in (["--pull", "-f", "train"], ["train", "--force", "--pull"]):
        options = parse(words)
        assert (options.arguments, options.pull, options.force) == ([], True, True)
    options = parse(["train", "-f", "--", "--pull"])
    assert (options.arguments, options.pull) == (["-f", "--", "--pull"], False)


def test_what_came_later_gives_way_to_a_declared_variable() -> None:
    words = ["train", "--pull", "3", "--yes"]
    options = parse(words)
    assert (options.arguments, options.later, options.pull, options.yes) == (["3"], ["--pull", "--yes"], True, True)
    options = parse(words, {"--pull"})
    assert (options.arguments, options.pull, options.yes) == (["--pull", "3"], False, True)
    assert parse(["--pull", "train"], {"--pull"}).pull, "before NAME it can only be ours"


def test_values_are_kept_out_of_the_arguments() -> None:
    words = ["-e", "A", "train", "-e", "B=x y", "-eC=1", "-e=D=2", "--env", "E=3", "--env=F=4", "--env-file", "f", "-x"]
    options = parse(words)
    assert options.env == ["A", "B=x y", "C=1", "D=2", "E=3", "F=4"]
    assert (options.env_files, options.arguments) == (["f"], ["-x"])
    assert parse(["train", "--", "-e", "A=1"]).env == []


def test_a_declared_variable_of_the_name_of_such_an_option() -> None:
    words = ["train", "--env", "prod", "--env-file", "x", "-e", "A=1"]
    assert parse(words).later == ["--env", "--env-file"]
    options = parse(words, {"--env", "--env-file"})
    assert (options.arguments, options.env) == (["--env", "prod", "--env-file", "x"], ["A=1"])


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["--detatch", "train"], "no option `--detatch`", "did you mean `--detach`"),
        (["--gpu", "2", "train"], "no option `--gpu`", "after its name"),
        (["-f", "train"], "no option `-f`", "every run is followed"),
        (["--follow", "train"], "no option `--follow`", "every run is followed"),
        (["train", "-t"], "option `-t` needs a value", ""),
        (["train", "--pull", "-d"], "`--pull` waits for the end of the run, and `--detach` does not", "later"),
        (["train", "--pull", "--plan"], "and `--plan` does not", "later"),
        (["train", "--tag="], "empty value", ""),
        (["--", "train"], "before the name", "dstack run NAME --"),
    ],
)
def test_mistakes(words: list[str], message: str, hint: str) -> None:
    with pytest.raises(UserError) as error:
        parse(words)
    assert message in error.value.message
    assert hint in (error.value.hint or "")
