"""`${{ secrets.NAME }}` and the caller's values: where they may stand, and what jobs are given."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from dstack.sdk.provider import JobSpec, secret_marker
from dstack.workflows import Invalid
from tests.support.growth import TIMES, growth

Make = Callable[..., Any]


def workflow(keys: str, provider: str = "bash") -> str:
    commands = "  commands: [true]\n" if provider == "bash" and "commands:" not in keys else ""
    return f"workflows:\n- name: train\n  provider: {provider}\n{commands}{keys}\n"


def job(make: Make, keys: str, *args: str, **known: Any) -> JobSpec:
    (step,) = make(workflow(keys)).plan("train", *args, **known).steps
    return step.jobs[0]


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        ("  environment: {A: '${{ secrets.KEY }}'}", secret_marker("KEY")),
        ("  env: ['A=${{ secrets.KEY }}']", secret_marker("KEY")),
        ("  env: {A: 'Bearer ${{ secrets.KEY }}!'}", f"Bearer {secret_marker('KEY')}!"),
        ("  env: {A: '$${{ secrets.KEY }} ${{ secrets.KEY }}'}", f"${{{{ secrets.KEY }}}} {secret_marker('KEY')}"),
    ],
)
def test_in_the_environment_a_secret_is_a_marker(keys: str, value: str, project: Make) -> None:
    found = job(project, keys)

    assert found.environment["A"] == value
    assert found.secrets == ("KEY",)


@pytest.mark.parametrize("key", ["commands", "before_run", "setup"])
def test_in_commands_a_secret_is_a_variable(key: str, project: Make) -> None:
    found = job(project, f"  {key}: [\"login --key ${{{{ secrets.my-key }}}} '${{{{ secrets.my-key }}}}'\"]")

    assert found.commands[0] == """login --key "${DSTACK_SECRET_my_key}" ''"${DSTACK_SECRET_my_key}"''"""
    assert found.environment == {"DSTACK_SECRET_my_key": secret_marker("my-key")}
    assert found.secrets == ("my-key",)


def test_a_command_of_several_lines_knows_its_quotes(project: Make) -> None:
    keys = '  commands: |\n    # don\'t show\n    curl -H "Authorization: ${{ secrets.KEY }}" \\\n      ${{ url }}\n'
    found = job(project, keys, "--url", "it's here")

    assert found.commands[0].splitlines() == [
        "# don't show", 'curl -H "Authorization: ${DSTACK_SECRET_KEY}" \\', "  it's here",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "provider", "line", "column", "message"),
    [
        ("  artifacts: ['${{ secrets.K }}']", "bash", 5, 16, "the secret `K` cannot stand in `artifacts`"),
        ("  help: a ${{ secrets.K }}", "bash", 5, 11, "the secret `K` cannot stand in `help`"),
        (
            "  script: a.py\n  args: [--key, '${{ secrets.K }}']",
            "python",
            5,
            18,
            "the secret `K` cannot stand in `args`",
        ),
        ("  depends-on: ['${{ secrets.K }}']", "bash", 5, 17, "the secret `K` cannot stand in `depends-on`"),
        ("  env: ['${{ secrets.K }}']", "bash", 5, 10, "a secret cannot name a variable"),
        ("  env: ['${{ secrets.K }}=1']", "bash", 5, 10, "a secret cannot name a variable"),
        ("  env: {A: '${{ secrets.a.b }}'}", "bash", 5, 13, "nothing is named `secrets.a.b`"),
        (
            "  commands: [\"cat <<'X'\\n${{ secrets.K }}\\nX\"]",
            "bash",
            4,
            26,
            "bash puts no value in place of `secrets.K`",
        ),
        ('  commands: ["echo \\\\${{ secrets.K }}"]', "bash", 4, 22, "bash puts no value in place of `secrets.K`"),
    ],
)
def test_elsewhere_a_secret_is_pointed_at(
    keys: str, provider: str, line: int, column: int, message: str, project: Make
) -> None:
    errors = project(workflow(keys, provider)).wrong("train")

    assert [(error.line, error.column) for error in errors if error.message.startswith(message)] == [(line, column)]


def test_a_secret_that_nobody_added_is_pointed_at_wherever_it_stands(project: Make) -> None:
    example = project(workflow("  env: {A: '${{ secrets.TOKN }}'}\n  commands: ['a ${{ secrets.OTHER }}']"))

    first, second = example.wrong("train", secrets=["TOKEN"])

    assert (first.line, first.column) == (4, 13)
    assert (first.message, first.hint) == ("there is no secret `TOKN`", "did you mean `TOKEN`?")
    assert (second.line, second.message) == (5, "there is no secret `OTHER`")
    assert second.hint == "add it with `dstack secrets add OTHER`"
    assert example.plan("train", secrets=["TOKN", "OTHER"]).steps
    assert example.plan("train", secrets=None).steps


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda size: "  env: [" + ", ".join(f"K{i}" for i in range(size)) + "]", 500),
        (lambda size: "  commands: ['" + "a ${{ secrets.K }}; " * size + "']", 400),
        (lambda size: "  commands: [\"cat <<X\\n" + "a ${{ secrets.K }}\\n" * size + 'X"]', 400),
        (lambda size: "  commands: ['" + "( ${{ secrets.K }}; " * size + "']", 400),
        (lambda size: "  commands: ['# " + "a ${{ secrets.K }}; " * size + "']", 400),
        (lambda size: "  env: ['A=" + "${{ secrets.K }}" * size + "']", 1000),
        (lambda size: "  env: ['" + "${{ secrets.K }}" * size + "=']", 1000),
        (lambda size: "  help: '" + "${{ secrets.K }}" * size + "'", 1000),
        (lambda size: "  env: {A: '" + "".join(f"${{{{ secrets.K{i} }}}}" for i in range(size)) + "'}", 1000),
    ],
    ids=["of the shell", "commands", "here-document", "parentheses", "comment", "value", "name", "help", "many names"],
)  # fmt: skip
def test_many_secrets_take_no_longer_than_their_number(make: Callable[[int], str], size: int, project: Make) -> None:
    def attempt(text: str) -> None:
        with contextlib.suppress(Invalid):
            project(text).plan("train", secrets=["K"], values=[])

    assert growth(lambda times: workflow(make(times)), attempt, size) < 3 * TIMES


def test_many_secrets_in_a_long_command_are_not_too_much(project: Make) -> None:
    """A command of 2 MB cannot be looked at once for each of them."""
    found = job(project, "  commands: ['" + f"echo {'x' * 10_000} ${{{{ secrets.K }}}}; " * 150 + "']")

    assert found.commands[0].count('"${DSTACK_SECRET_K}"') == 150


# --- values of the caller's shell --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("  env: [KEY]", []),
        ("  env: {A: b}", ["-e", "KEY"]),
        ("  environment: [A=b]", ["--env", "KEY"]),
        ("", ["-eKEY"]),
        ("  env: [KEY=own]", ["-e", "KEY"]),
    ],
)
def test_a_name_alone_takes_the_callers_value(keys: str, words: list[str], project: Make) -> None:
    found = job(project, keys, *words, values=["KEY"])

    assert found.environment["KEY"] == secret_marker("env:KEY")
    assert found.secrets == ("env:KEY",)


@pytest.mark.parametrize(("keys", "words"), [("  env: [KEY=]", []), ("  env: {KEY: }", []), ("", ["-e", "KEY="])])
def test_an_empty_value_is_written_as_one(keys: str, words: list[str], project: Make) -> None:
    found = job(project, keys, *words, values=[])

    assert (found.environment["KEY"], found.secrets) == ("", ())


def test_a_value_that_the_caller_does_not_have(project: Make) -> None:
    (error,) = project(workflow("  env: [A=b, KEY]")).wrong("train", values=["OTHER"])

    assert (error.line, error.column, error.message) == (5, 14, "`KEY` is not set in your shell")
    assert error.hint == "export it, give it with `-e KEY=VALUE`, or write `KEY=` for an empty value"
    for words in (["-e", "KEY"], ["-eKEY"]):
        (error,) = project(workflow("")).wrong("train", *words, values=[])
        assert (error.file, error.source) == (None, " ".join(words))
        assert error.message == "`KEY` is not set in your shell"


def test_a_marker_that_somebody_writes_is_known_or_refused(project: Make) -> None:
    """A zero byte can be written in YAML: it gives nothing that `${{ secrets.KEY }}` does not."""
    example = project(workflow('  env: {A: "\\0KEY\\0"}'))

    (error,) = example.wrong("train", secrets=[])

    assert error.message == "there is no secret `KEY`"
    (error,) = project(workflow('  env: {A: "a\\0b"}')).wrong("train")
    assert "zero byte" in error.message
